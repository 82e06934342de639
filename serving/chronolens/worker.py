"""The engine as a process of its own: HTTP over a Unix socket, stateless requests, packed arrays in and out.

Started by module name (``python -m chronolens.worker --socket PATH``); only :mod:`chronolens.worker_client` speaks to it.
One request computes at a time, so that thread count and therefore results stay the same under load.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chronolens.engine import Engine
from chronolens.errors import ChronolensError, OptionsError, WeightsError
from chronolens.models.weights import default_store
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.wire import MEDIA_TYPE, Arrays, pack, unpack


def call(engine: Engine, operation: str, arrays: Arrays, facts: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """Run ``look``, ``learn`` or ``score`` on an engine from the arrays and facts of a request body."""
    frames, model = arrays["frames"], facts["model"]
    if operation == "look":
        wanted = facts["gradcam"]
        gradcam = None if wanted is None else GradCamOptions.model_validate(wanted)
        return engine.look(model, frames, target=facts["target"], gradcam=gradcam)
    mask = MaskOptions.model_validate(facts["mask"])
    if operation == "learn":
        limits = {"max_steps": facts["max_steps"], "budget_s": facts["budget_s"], "known": facts["known"]}
        return {}, engine.learn(model, frames, facts["target"], facts["operator"], mask, facts["state"], **limits)
    return {}, engine.score(model, frames, facts["target"], facts["masks"], mask, facts["known"], budget_s=facts["budget_s"])


def create_app(engine: Engine) -> Starlette:
    """Return the worker's application."""
    busy = threading.Lock()

    def compute(operation: str, body: bytes) -> bytes:
        arrays, facts = unpack(body)
        with busy:
            return pack(*call(engine, operation, arrays, facts))

    async def operate(request: Request) -> Response:
        body = await request.body()
        answer = await run_in_threadpool(compute, request.path_params["operation"], body)
        return Response(answer, media_type=MEDIA_TYPE)

    async def models(_request: Request) -> Response:
        found = await run_in_threadpool(engine.models)
        return JSONResponse({"models": [info.model_dump(mode="json") for info in found]})

    async def passes(_request: Request) -> Response:
        return JSONResponse({"passes": engine.passes()})

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def refuse(_request: Request, error: Exception) -> Response:
        if not isinstance(error, ChronolensError):
            raise error
        fields = {name: getattr(error, name) for name in ("detail", "code", "pointer", "limit", "observed", "allowed")}
        return JSONResponse({"error": type(error).__name__, **fields}, status_code=422)

    routes = [
        Route("/healthz", healthz),
        Route("/models", models),
        Route("/passes", passes),
        Route("/{operation:str}", operate, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={ChronolensError: refuse})


def main() -> None:
    """Serve until the process is told to stop."""
    parser = argparse.ArgumentParser(prog="chronolens.worker")
    parser.add_argument("--socket", required=True, help="path of the Unix socket to listen on")
    parser.add_argument("--store", type=Path, default=None, help="folder with weights.toml")
    options = parser.parse_args()
    store = options.store or default_store()
    try:
        engine = Engine(store)
        served = engine.models()
    except (WeightsError, OptionsError) as error:
        raise SystemExit(f"the model store cannot be served: {error.detail}") from error
    if not served:
        raise SystemExit(f"the model store {store} has no models; set CHRONOLENS_MODEL_STORE to a folder with weights.toml")
    uvicorn.run(create_app(engine), uds=options.socket, log_level="warning", access_log=False, timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
