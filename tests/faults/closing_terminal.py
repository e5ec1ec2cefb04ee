"""Start a command on a terminal and close the terminal as soon as a file exists.

`python closing_terminal.py ignore|default GLOB COMMAND...`: with SIGHUP ignored, or not. The exit code is that of the
command, 128 and the number of the signal that killed it.
"""

from __future__ import annotations

import glob
import os
import pty
import select
import signal
import sys


def main() -> int:
    handling, marker, *command = sys.argv[1:]
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if handling == "ignore" else signal.SIG_DFL)
        os.execvp(command[0], command)
    while not glob.glob(marker, include_hidden=True):  # noqa: PTH207
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 4096)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
