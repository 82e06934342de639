"""The application: :func:`create_app` puts the parts together; importing this module does nothing else, and never loads torch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, Request

from chronolens.options import ExplanationOptions, PredictionOptions
from chronolens.video.limits import DecodeLimits
from chronolens_gateway import database, errors, openapi
from chronolens_gateway.backends.choose import open_backend
from chronolens_gateway.errors import RequestError
from chronolens_gateway.jobs import Jobs
from chronolens_gateway.limits import Limits
from chronolens_gateway.metrics import Metrics
from chronolens_gateway.middleware import RequestScope
from chronolens_gateway.routes import artefacts, events, explanations, health, models, open_inference, predictions
from chronolens_gateway.service import Service, quick_limiter
from chronolens_gateway.settings import Settings
from chronolens_gateway.storage import JobStorage
from chronolens_gateway.supervisor import Supervisor, children


async def _known_query(request: Request) -> None:
    """Refuse query parameters that the route does not have: a misspelt one must not be passed over in silence."""
    route: Any = request.scope.get("route")
    known = {field.alias for field in route.dependant.query_params} if hasattr(route, "dependant") else set()
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        allowed = f"; known: {', '.join(sorted(known))}" if known else ""
        raise RequestError(f"there is no such query parameter{allowed}", code="unknown-parameter")
    if len(request.query_params.multi_items()) != len(request.query_params):
        raise RequestError("a query parameter comes twice", code="duplicate-parameter")


def create_app(settings: Settings) -> FastAPI:
    """Return the application of one service; it opens nothing before it is started."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            service = await _start(settings, metrics, lambda: bool(app.state.stopping()))
            stack.push_async_callback(to_thread.run_sync, service.jobs.close)
            stack.callback(service.backend.close)
            if settings.embedded:
                restarted = metrics.restarts.labels
                await stack.enter_async_context(Supervisor(settings, children(settings), lambda name: restarted(name).inc()))
            app.state.service = service
            yield
            app.state.service = None

    app = FastAPI(
        title="chronolens",
        summary="Why a video model said what it said, and when in the clip it made up its mind.",
        lifespan=lifespan,
        dependencies=[Depends(_known_query)],
        redoc_url=None,
        redirect_slashes=False,  # a redirect would carry whatever Host the request named
    )
    routers = [part.router for part in (health, models, predictions, explanations, events, artefacts, open_inference)]
    app.state.stopping = lambda: False  # whoever serves the application says when open streams should end
    errors.install(app, [route for router in routers for route in router.routes])
    app.add_middleware(RequestScope, metrics=metrics)
    for router in routers:
        app.include_router(router)
    _describe(app)
    return app


async def _start(settings: Settings, metrics: Metrics, stopping: Callable[[], bool]) -> Service:
    settings.prepare()
    storage = JobStorage(settings.data_dir)
    storage.prepare()
    database.refuse_pickle()
    database.quiet()
    await to_thread.run_sync(database.migrate, settings)
    database.quiet()
    jobs = Jobs(await to_thread.run_sync(database.connect, settings), storage)
    if settings.embedded:  # nobody else uses the data folder, so what is half done there was left by a killed gateway
        await to_thread.run_sync(storage.sweep)
        await to_thread.run_sync(jobs.remove_orphans)
    return Service(
        settings=settings,
        limits=_limits(settings),
        metrics=metrics,
        storage=storage,
        backend=open_backend(settings),
        jobs=jobs,
        decoding=CapacityLimiter(settings.decode_slots),
        predicting=CapacityLimiter(settings.predict_slots),
        quick=quick_limiter(),
        stopping=stopping,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        clip_bytes=settings.max_clip_bytes,
        wait_s=settings.max_wait_s,
        decode=DecodeLimits(max_bytes=settings.max_clip_bytes),
    )


def _describe(app: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            template = "#/components/schemas/{model}"
            kinds = (PredictionOptions, ExplanationOptions)
            app.openapi_schema = openapi.describe(app, {kind.__name__: kind.model_json_schema(ref_template=template) for kind in kinds})
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
