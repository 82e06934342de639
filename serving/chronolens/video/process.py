"""Start and stop the sandbox process, and read its answers under a deadline."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from chronolens.video import channel, verdicts
from chronolens.video.limits import DecodeLimits

_BOOT = "import sys; sys.path[:0] = sys.argv[1:3]; from chronolens.video.sandbox import main; sys.exit(main(sys.argv[3:]))"
_MAX_JSON = 1 << 20
_GRACE_S = 1.0


class Sandbox:
    """A running sandbox process; leaving the block ends it, whatever it does.

    Args:
        fd: descriptor of the clip; the only file besides its libraries that the process is handed.
        demuxer: which demuxer it may use.
        limits: sent along; ``wall_s`` is enforced here.
    """

    def __init__(self, fd: int, demuxer: str, limits: DecodeLimits) -> None:
        self._deadline = time.monotonic() + limits.wall_s
        self._folder = tempfile.TemporaryDirectory(prefix="chronolens-")
        order = json.dumps({"fd": fd, "demuxer": demuxer, "limits": dataclasses.asdict(limits)})
        self._process = subprocess.Popen(
            # -I: no environment, no current folder, no user packages; -S: no .pth files, hence the two folders in the call.
            [sys.executable, "-I", "-S", "-B", "-c", _BOOT, _package_root("chronolens"), _package_root("av"), order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(fd,),
            cwd=self._folder.name,
            env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ} | {"LANG": "C.UTF-8"},
            start_new_session=True,
        )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process.wait()
        self._folder.cleanup()

    def ask(self, wanted: Sequence[int]) -> None:
        """Answer a plan with the frames to send.

        Raises:
            ClipError: the process has gone.
        """
        try:
            os.write(_fd(self._process.stdin), json.dumps({"wanted": list(wanted)}).encode() + b"\n")
        except BrokenPipeError:
            raise self._ended() from None

    def header(self) -> tuple[bytes, int]:
        """Read kind and length of the next message.

        Raises:
            ClipError: ``decode-timeout`` or, when the process ended, its verdict.
        """
        kind, length = channel.HEADER.unpack(self.exactly(channel.HEADER.size))
        return kind, length

    def message(self, length: int) -> dict[str, Any]:
        """Read a JSON payload.

        Raises:
            ClipError: as :meth:`header`, or no JSON object came.
        """
        if length > _MAX_JSON:
            raise verdicts.error("undecodable")
        try:
            value = json.loads(self.exactly(length))
        except ValueError:
            raise verdicts.error("undecodable") from None
        if not isinstance(value, dict):
            raise verdicts.error("undecodable")
        return value

    def exactly(self, length: int) -> bytearray:
        """Read a number of bytes.

        Raises:
            ClipError: as :meth:`header`.
        """
        data = bytearray(length)
        self.into(memoryview(data))
        return data

    def into(self, view: memoryview) -> None:
        """Fill a buffer of bytes.

        Raises:
            ClipError: as :meth:`header`.
        """
        fd = _fd(self._process.stdout)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while len(view):
            left = self._deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise verdicts.error("decode-timeout")
            count = os.readv(fd, [view])
            if count == 0:
                raise self._ended()
            view = view[count:]

    def _ended(self) -> Exception:
        """The verdict on a process that ended before its answer did: out of time, or a crash, which the clip caused."""
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            code = 0
        return verdicts.error("decode-timeout" if -code in (signal.SIGXCPU, signal.SIGPROF) else "undecodable")


def _package_root(name: str) -> str:
    """Folder that holds a package, found without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed", name=name)
    return str(Path(spec.origin).resolve().parents[1])


def _fd(pipe: Any) -> int:
    return int(pipe.fileno())
