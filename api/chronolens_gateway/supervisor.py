"""Start the engine worker and the runner as children of the gateway, start them again when they die, stop them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from chronolens_gateway.settings import Settings

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_STEADY_S = 30.0
_GRACE_S = 5.0
_log = logging.getLogger("chronolens_gateway.supervisor")


@dataclass(frozen=True)
class Child:
    """One process to keep alive: a name for the log and the module to run with its arguments."""

    name: str
    arguments: tuple[str, ...]


def children(settings: Settings) -> list[Child]:
    """Return the processes of the embedded service."""
    return [Child("engine", _engine(settings)), Child("runner", ("-m", "chronolens_gateway.runner"))]


def _engine(settings: Settings) -> tuple[str, ...]:
    store = ("--store", str(settings.model_store))
    pool = {"workers": settings.workers, "memory-bytes": settings.worker_memory_bytes, "hang-s": settings.hang_s}
    given = {"socket": settings.socket, **pool, "max-waiting": settings.max_waiting}
    options = tuple(word for name, value in given.items() if value is not None for word in (f"--{name}", str(value)))
    if settings.engine == "local":
        return ("-m", "chronolens.pool.server", *options, *store)
    exported = (*store, "--exports", str(settings.exports))
    if settings.engine == "onnx":
        return ("-m", "chronolens_gateway.servers.onnx", *exported, *options)
    module = f"chronolens_gateway.servers.{settings.engine.partition('-')[0]}"
    return ("-m", module, "--folder", str(settings.server_folder), *exported)


class Supervisor:
    """Keeps children alive while it is entered. Must run in the main thread's event loop: the leash is tied to the starting thread.

    Args:
        restarted: called with the child's name at every restart.
    """

    def __init__(self, settings: Settings, kept: list[Child], restarted: Callable[[str], None]) -> None:
        # Threads of the engine that spin while they wait would make it some 20 times slower whenever another process is busy.
        self._environment = {"OMP_WAIT_POLICY": "passive", **os.environ, **settings.environment()}
        self._kept = kept
        self._restarted = restarted
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Supervisor:
        self._tasks = [asyncio.create_task(self._keep(child), name=f"keep-{child.name}") for child in self._kept]
        return self

    async def __aexit__(self, *_error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, child: Child) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            started = time.monotonic()
            code = await self._run(child)
            if time.monotonic() - started > _STEADY_S:
                pause = _FIRST_PAUSE_S
            _log.warning("%s ended with %s, starts again in %.1f s", child.name, code, pause)
            self._restarted(child.name)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _run(self, child: Child) -> int:
        leash = (sys.executable, "-m", "chronolens.leash", str(os.getpid()))
        process = await asyncio.create_subprocess_exec(
            *leash, sys.executable, *child.arguments, stdin=asyncio.subprocess.DEVNULL, env=self._environment, start_new_session=True
        )
        try:
            return await process.wait()
        finally:
            await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end, then make it."""
    for number, patience in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience)
