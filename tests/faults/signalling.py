"""Start a command and send it a signal as soon as a file exists.

`python signalling.py [--ignored] SIGNAL GLOB COMMAND...`; the exit code is that of the command, 128 and the number of
the signal that killed it. With `--ignored` the command starts with the signal ignored, as under `nohup`.
"""

from __future__ import annotations

import glob
import signal
import subprocess
import sys
import time


def main() -> int:
    arguments = sys.argv[1:]
    ignored = arguments[0] == "--ignored"
    name, marker, *command = arguments[ignored:]
    number = signal.Signals[name]
    signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    process = subprocess.Popen(command)
    while not glob.glob(marker, include_hidden=True) and process.poll() is None:  # noqa: PTH207
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
