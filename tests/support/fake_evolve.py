"""The command `evolve` with the fake engines: `python fake_evolve.py run CONFIG --run-dir DIR`."""

from __future__ import annotations

from fakes import FAKE

from evolve.cli import driving, main

driving.REAL = FAKE

if __name__ == "__main__":
    main()
