"""Run a command that must not outlive its parent: ``python -m chronolens.leash PARENT_PID COMMAND...``.

The kernel kills the command when the parent dies, even by SIGKILL; that survives the exec. Linux only, like the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Put this process on the leash and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
