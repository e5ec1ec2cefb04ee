"""The command `evolve` with fake engines of which some run a shell script first.

`python hooked_evolve.py HOOKS ARGUMENTS...`: a JSON file that maps an engine to the number of the call and the script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SUPPORT = str(Path(__file__).parents[1] / "support")
sys.path.insert(0, SUPPORT)

from fakes import FAKE  # noqa: E402

from evolve.cli import driving, main  # noqa: E402


@dataclass
class Hooked:
    """An engine that runs a script before one of its calls; a worker can import it."""

    name: str
    nth: int
    script: str
    calls: int = 0

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        self.calls += 1
        if self.calls == self.nth:
            subprocess.run(["/bin/sh", "-c", self.script], check=True)
        return getattr(FAKE, self.name)(*arguments, **more)


if __name__ == "__main__":
    hooks = json.loads(Path(sys.argv.pop(1)).read_text())
    here = os.pathsep.join([SUPPORT, str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = here
    sys.modules["hooked_evolve"] = sys.modules["__main__"]
    Hooked.__module__ = "hooked_evolve"
    driving.REAL = replace(FAKE, **{name: Hooked(name, *hook) for name, hook in hooks.items()})
    main()
