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


def main() -> None:
    """Serve until the process is told to stop."""
    parser = argparse.ArgumentParser(prog="chronolens.pool.server")
    parser.add_argument("--socket", required=True, help="path of the Unix socket to listen on")
    parser.add_argument("--store", type=Path, help="folder with weights.toml")
    parser.add_argument("--onnx", type=Path, help="folder of ONNX artefacts, to be run in place of the store's networks")
    parser.add_argument("--models", nargs="+", help="which of the ONNX artefacts")
    parser.add_argument("--workers", type=int, default=PoolOptions.workers, help="worker processes")
    parser.add_argument("--memory-bytes", type=int, help="most resident memory of a worker")
    parser.add_argument("--hang-s", type=float, default=PoolOptions.hang_s, help="seconds after which a silent worker is killed")
    parser.add_argument("--max-waiting", type=int, default=PoolOptions.max_waiting, help="calls that may wait")
    asked = parser.parse_args()
    given = {"--store": asked.store, "--onnx": asked.onnx}
    command = [*WORKER, *(word for name, value in given.items() if value is not None for word in (name, str(value)))]
    command += ["--models", *asked.models] if asked.models else []
    limits = {"workers": asked.workers, "memory_bytes": asked.memory_bytes, "hang_s": asked.hang_s, "max_waiting": asked.max_waiting}
    app = create_app(PoolOptions(command, **limits))
    os.umask(0o077)  # whoever may open the socket may ask the engine
    uvicorn.run(app, uds=asked.socket, log_level="warning", access_log=False, timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
