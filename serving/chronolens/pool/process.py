"""One worker process: started on a leash, asked over a socket pair, watched for death, silence and hunger."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from chronolens.errors import EngineCrashedError, EngineUnavailableError

_WATCH_S = 0.1
_log = logging.getLogger(__name__)


class WorkerProcess:
    """One worker, alive from here until it dies or is closed. Must be made by the thread that uses it: the leash is tied to that thread.

    Sending and receiving block; a second thread looks after the worker meanwhile and kills it when it hangs, has outgrown its memory or is
    not wanted any more. The blocked side then sees the end of the socket.

    Args:
        command: to start it, without the ``--fd`` that is added here.
        memory_bytes: most resident memory it may take.
        start_s: longest wait until it is ready.
        abandoned: asked now and then; True ends it.

    Raises:
        EngineUnavailableError: it did not become ready.
    """

    def __init__(self, command: Sequence[str], *, memory_bytes: int, start_s: float, abandoned: Callable[[], bool]) -> None:
        self._memory_bytes = memory_bytes
        self._abandoned = abandoned
        self._deadline = time.monotonic() + start_s
        self._why: EngineUnavailableError | None = None
        self._over = threading.Event()
        try:
            self._process, self._pipe = _started(command)
        except OSError as error:  # no memory, no file descriptors: better luck later
            raise EngineUnavailableError("the process that runs the models cannot be started") from error
        self.pid = self._process.pid
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{self.pid}", daemon=True)
        self._watcher.start()
        with self._closed_on_error():
            self.hello: dict[str, Any] = json.loads(self._pipe.recv_bytes())

    def ask(self, bodies: Sequence[bytes], patience_s: float) -> tuple[list[bytes], list[dict[str, Any]]]:
        """Return the answers to a batch, and what the worker has counted since it began.

        Args:
            bodies: packed calls.
            patience_s: after which a silent worker is taken to hang.

        Raises:
            EngineUnavailableError: it died, hung, took too much memory or spoke nonsense (EngineCrashedError), or was abandoned; it is
                dead now.
        """
        self._deadline = time.monotonic() + patience_s
        with self._closed_on_error():
            self._pipe.send_bytes(len(bodies).to_bytes(4, "big"))
            for body in bodies:
                self._pipe.send_bytes(body)
            passes: list[dict[str, Any]] = json.loads(self._pipe.recv_bytes())["passes"]
            answers = [self._pipe.recv_bytes() for _ in bodies]
        return answers, passes

    def memory(self) -> int:
        """Return its resident memory in bytes, 0 when it is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def alive(self) -> bool:
        """Return whether it runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """Make sure that it is dead."""
        self._over.set()
        self._process.kill()  # stateless, so there is nothing to save
        self._process.wait()
        self._watcher.join()
        self._pipe.close()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise self._why or EngineCrashedError("the process that runs the models died") from error
        self._deadline = math.inf

    def _watch(self) -> None:
        while not self._over.wait(_WATCH_S):
            self._why = self._wrong()
            if self._why is not None:
                _log.warning("a worker is ended: %s", self._why.detail)
                self._process.kill()
                return

    def _wrong(self) -> EngineUnavailableError | None:
        if self.memory() > self._memory_bytes:
            return EngineCrashedError("the engine has not enough memory for this request", code="engine-out-of-memory")
        if time.monotonic() > self._deadline:
            return EngineCrashedError("the process that runs the models hung on this request", code="engine-hung")
        return EngineUnavailableError("the service is stopping") if self._abandoned() else None


def _started(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a worker on a leash; return it and our end of its socket."""
    ours, theirs = socket.socketpair()
    leash = (sys.executable, "-m", "chronolens.leash", str(os.getpid()))
    # Threads that spin while they wait would make the worker some 20 times slower whenever another process is busy.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    number = theirs.fileno()
    try:
        with theirs:
            process = subprocess.Popen(
                (*leash, *command, "--fd", str(number)), stdin=subprocess.DEVNULL, env=environment, pass_fds=[number]
            )
    except OSError:
        ours.close()
        raise
    return process, Connection(ours.detach())


def memory_share(workers: int) -> int:
    """Return the default for ``memory_bytes``: four fifths of what this machine or its control group has, shared by ``workers``."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no control group, or "max"
            continue
    return min(found) * 4 // 5 // workers
