"""Kill runs at random times: `python benchmarks/soak.py [--real] [KILLS] [SEED]`.

With fake engines it is one long run and 100 kills, with the real engines (`--real`) several runs of a tiny family and
50 kills.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

_REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(_REPOSITORY / "tests" / "support"), str(_REPOSITORY)]

from soak import soak  # noqa: E402 - after the paths are set


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--real"]
    is_real = len(arguments) < len(sys.argv) - 1
    kills = int(arguments[0]) if arguments else 50 if is_real else 100
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    with tempfile.TemporaryDirectory(prefix="evolve-soak-") as place:
        problems = (_real if is_real else _fake)(Path(place), kills, seed)
    print("the final tree equals that of the uninterrupted run" if not problems else "\n".join(problems))
    sys.exit(bool(problems))


def _fake(place: Path, kills: int, seed: int) -> list[str]:
    found = soak(place, kills=kills, seed=seed, foundations=12)
    targets = ", ".join(f"{target} {count}" for target, count in sorted(found.by_target.items()))
    print(f"kills: {found.kills} ({targets}) over {found.sessions} sessions of one run of {found.models} models")
    print(f"unfinished steps that were repeated: {found.repeated}")
    print(f"seconds: {found.seconds:.0f}")
    return found.problems


def _real(place: Path, kills: int, seed: int) -> list[str]:
    from real_soak import real_soak

    found = real_soak(place, kills=kills, seed=seed)
    targets = ", ".join(f"{target} {count}" for target, count in sorted(found.by_target.items()))
    work = f"{found.sessions} sessions of {found.runs} runs of {found.models} models"
    print(f"kills: {found.kills} ({targets}) over {work}")
    print(f"before the first event of a run: {found.early.total()}, while a session started: {found.before_work}")
    print(f"seconds: {found.seconds:.0f}")
    return found.problems


if __name__ == "__main__":
    main()
