"""Kill a long run with fake engines a hundred times at random times: `python benchmarks/soak.py [KILLS] [SEED]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from soak import soak


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory(prefix="evolve-soak-") as place:
        found = soak(Path(place), kills=kills, seed=seed, foundations=12)
    targets = ", ".join(f"{target} {count}" for target, count in sorted(found.by_target.items()))
    print(f"kills: {found.kills} ({targets}) over {found.sessions} sessions of one run of {found.models} models")
    print(f"unfinished steps that were repeated: {found.repeated}; workers that outlived their driver: {found.orphans}")
    print(f"seconds: {found.seconds:.0f}")
    print("the final tree equals that of the uninterrupted run" if not found.problems else "\n".join(found.problems))
    sys.exit(bool(found.problems))


if __name__ == "__main__":
    main()
