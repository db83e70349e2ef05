"""``python -m engine.deployment.tied PID COMMAND...``: run a command that ends when the process PID ends.

A supervisor that is killed must not leave a server behind that holds the port.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ask the kernel for the signal (Linux only), then become the command."""
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit("the supervisor is gone")  # before the kernel was asked
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
