"""One worker process: started on a leash, asked over a socket pair, watched for death, silence and hunger."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from chronolens.errors import EngineCrashedError, EngineUnavailableError

_WATCH_S = 0.1
_log = logging.getLogger(__name__)


class WorkerProcess:
    """One worker, alive from here until it dies or is closed. Must be made by the thread that uses it: the leash is tied to that thread.

    Args:
        command: to start it, without the ``--fd`` that is added here.
        memory_bytes: most resident memory it may take; it is killed beyond.
        start_s: longest wait until it is ready.

    Raises:
        EngineUnavailableError: it did not become ready.
    """

    def __init__(self, command: Sequence[str], *, memory_bytes: int, start_s: float) -> None:
        ours, theirs = socket.socketpair()
        leash = (sys.executable, "-m", "chronolens.leash", str(os.getpid()))
        arguments = (*leash, *command, "--fd", str(theirs.fileno()))
        # Threads that spin while they wait would make the worker some 20 times slower whenever another process is busy.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        with theirs:
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()])
        self._pipe = Connection(ours.detach())
        self._memory_bytes = memory_bytes
        self.pid = self._process.pid
        try:
            self.hello: dict[str, Any] = json.loads(self._receive(time.monotonic() + start_s, lambda: False))
        except BaseException:
            self.close()
            raise

    def ask(self, bodies: Sequence[bytes], patience_s: float, abandoned: Callable[[], bool]) -> tuple[list[bytes], dict[str, Any]]:
        """Return the answers to a batch, and the worker's own facts (``passes``).

        Args:
            bodies: packed calls.
            patience_s: after which a silent worker is taken to hang.
            abandoned: asked now and then; True ends the wait.

        Raises:
            EngineCrashedError: it died, hung or took too much memory; it is dead now.
        """
        deadline = time.monotonic() + patience_s
        try:
            self._pipe.send_bytes(len(bodies).to_bytes(4, "big"))
            for body in bodies:
                self._pipe.send_bytes(body)
            facts: dict[str, Any] = json.loads(self._receive(deadline, abandoned))
            return [self._receive(deadline, abandoned) for _ in bodies], facts
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise EngineCrashedError("the process that runs the models died on this request") from error
        except EngineUnavailableError:
            self.close()
            raise

    def memory(self) -> int:
        """Return its resident memory in bytes, 0 when it is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def alive(self) -> bool:
        """Return whether it runs and may go on: a worker that has outgrown its memory is no good even when idle."""
        return self._process.poll() is None and self.memory() <= self._memory_bytes

    def close(self) -> None:
        """Make sure that it is dead."""
        self._process.send_signal(signal.SIGKILL)  # stateless, so there is nothing to save
        self._process.wait()
        self._pipe.close()

    def _receive(self, deadline: float, abandoned: Callable[[], bool]) -> bytes:
        """Return the next message, watching the worker meanwhile."""
        while not self._pipe.poll(_WATCH_S):
            if self.memory() > self._memory_bytes:
                raise EngineCrashedError("the engine has not enough memory for this request", code="engine-out-of-memory")
            if time.monotonic() > deadline:
                raise EngineCrashedError("the process that runs the models hung on this request", code="engine-hung")
            if abandoned():
                raise EngineUnavailableError("the service is stopping")
        try:
            return self._pipe.recv_bytes()
        except (OSError, EOFError) as error:
            raise EngineCrashedError("the process that runs the models died") from error


def memory_share(workers: int) -> int:
    """Return the default for ``memory_bytes``: four fifths of what this machine or its control group has, shared by ``workers``."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no control group, or "max"
            continue
    return min(found) * 4 // 5 // workers
