"""The process that decodes one untrusted clip: ``python -m chronolens.video.sandbox``, started by :mod:`chronolens.video.decode`.

It gets the file as an open descriptor, requests on stdin, and answers on stdout in the form of :mod:`chronolens.video.channel`.
Before PyAV is imported it gives up what it does not need: new privileges, the network, memory, processor time, files to write; before
the first byte of the clip is read, the file system too. It imports neither numpy nor anything else heavy, because every clip pays for
its start.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import math
import os
import resource
import signal
import sys

from chronolens.video.channel import Sender
from chronolens.video.limits import DecodeLimits

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

LATE_MODULES = (
    "av.audio.codeccontext",
    "av.audio.stream",
    "av.sidedata.encparams",
    "av.sidedata.motionvectors",
    "av.subtitles.codeccontext",
    "av.subtitles.stream",
    "av.video.codeccontext",
    "av.video.stream",
)
"""What PyAV imports only when it needs it, which is too late without a file system."""


def confine(limits: DecodeLimits) -> None:
    """Give up rights and set the limits of this process. The system-call filter of a later version belongs here, as the last step."""
    libc = ctypes.CDLL(None, use_errno=True)
    # A network of its own, without devices. Not allowed everywhere; FFmpeg has no protocol here in any case.
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last: changed credentials would clear it
    seconds = max(1, math.ceil(limits.cpu_s))
    for what, soft, hard in (
        (resource.RLIMIT_AS, limits.address_space_bytes, limits.address_space_bytes),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        resource.setrlimit(what, (soft, hard))
    # RLIMIT_CPU counts whole seconds; this timer counts the same time finely and ends the process likewise.
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)


def leave_file_system() -> None:
    """Make the empty working folder the root, once everything is loaded; the clip is an open descriptor and needs no name.

    Where neither the user nor a user namespace allows it the process goes on: FFmpeg has no file protocol here in any case.
    """
    with contextlib.suppress(PermissionError):
        os.chroot(".")


def main(arguments: list[str]) -> int:
    """Decode the file; 0 also when the clip was refused, since the answer says so."""
    order = json.loads(arguments[0])
    limits = DecodeLimits(**order["limits"])
    confine(limits)
    out = Sender(os.dup(1))
    os.dup2(2, 1)  # a library that prints must not disturb the answer
    from chronolens.video.serve import serve

    for module in LATE_MODULES:
        importlib.import_module(module)
    leave_file_system()
    serve(order["fd"], order["demuxer"], limits, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
