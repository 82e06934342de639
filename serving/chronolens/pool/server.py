"""The local engine's front door: ``python -m chronolens.pool.server --socket PATH``, HTTP over a Unix socket. No torch.

``POST /call`` takes a packed call and returns its packed answer; ``/healthz`` tells whether a worker is there, ``/stats`` the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chronolens.engine_wire import Head, head_of, pack_error
from chronolens.errors import ChronolensError, DeadlineExceededError, EngineUnavailableError
from chronolens.pool.pool import Pool, PoolOptions
from chronolens.wire import MEDIA_TYPE

WORKER = (sys.executable, "-m", "chronolens.worker")


def create_app(options: PoolOptions) -> Starlette:
    """Return the application; its workers start and stop with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.pool = await asyncio.to_thread(Pool, options)
        yield
        await asyncio.to_thread(app.state.pool.close)

    async def call(request: Request) -> Response:
        body = await request.body()
        return Response(await _answer(request.app.state.pool, body), media_type=MEDIA_TYPE)

    async def healthz(request: Request) -> Response:
        ready = request.app.state.pool.ready()
        return JSONResponse({"status": "ok" if ready else "no worker"}, status_code=200 if ready else 503)

    async def stats(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(request.app.state.pool.stats))

    routes = [Route("/call", call, methods=["POST"]), Route("/healthz", healthz), Route("/stats", stats)]
    return Starlette(routes=routes, lifespan=lifespan)


async def _answer(pool: Pool, body: bytes) -> bytes:
    try:
        head = head_of(body)
    except ChronolensError as error:
        return pack_error("", error)
    try:
        answer = asyncio.wrap_future(pool.submit(body))
        return await asyncio.wait_for(answer, _left(head))
    except ChronolensError as error:
        return pack_error(head.id, error)
    except TimeoutError:
        return pack_error(head.id, DeadlineExceededError("the models did not answer in time"))
    except asyncio.CancelledError:  # the pool gave the call up
        return pack_error(head.id, EngineUnavailableError("the process that runs the models is stopping"))


def _left(head: Head) -> float | None:
    return None if head.expires_at is None else max(0.0, head.expires_at - time.time())


def options_from(environment: dict[str, str], store: Path | None, onnx: Path | None) -> PoolOptions:
    """Return the pool's options from ``CHRONOLENS_WORKERS``, ``..._WORKER_MEMORY_BYTES``, ``..._MAX_WAITING`` and ``..._HANG_S``."""
    given = {
        "workers": ("CHRONOLENS_WORKERS", int),
        "memory_bytes": ("CHRONOLENS_WORKER_MEMORY_BYTES", int),
        "max_waiting": ("CHRONOLENS_MAX_WAITING", int),
        "hang_s": ("CHRONOLENS_HANG_S", float),
    }
    found = {name: kind(environment[variable]) for name, (variable, kind) in given.items() if environment.get(variable)}
    command = [*WORKER]
    for name, folder in (("--store", store), ("--onnx", onnx)):
        command += [] if folder is None else [name, str(folder)]
    return PoolOptions(command, **found)


def main() -> None:
    """Serve until the process is told to stop."""
    parser = argparse.ArgumentParser(prog="chronolens.pool.server")
    parser.add_argument("--socket", required=True, help="path of the Unix socket to listen on")
    parser.add_argument("--store", type=Path, default=None, help="folder with weights.toml")
    parser.add_argument("--onnx", type=Path, default=None, help="folder of ONNX artefacts, to be run in place of the store's networks")
    options = parser.parse_args()
    app = create_app(options_from(dict(os.environ), options.store, options.onnx))
    uvicorn.run(app, uds=options.socket, log_level="warning", access_log=False, timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
