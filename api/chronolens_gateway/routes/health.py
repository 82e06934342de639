"""Is the process alive, can it answer, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from chronolens_gateway.errors import NotReadyError
from chronolens_gateway.openapi import refusals
from chronolens_gateway.service import ServiceHere

router = APIRouter(tags=["service"])
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>chronolens</title>
<h1>chronolens</h1><p>Explains what a video model saw, and when.</p>
<ul><li><a href="/docs">The HTTP interface</a> (<a href="/openapi.json">OpenAPI</a>)</li>
<li><a href="/v1/models">Models</a></li><li><a href="/v1/limits">Limits</a></li></ul></html>
"""


@router.get("/", include_in_schema=False)
async def front_page() -> HTMLResponse:
    """Point to the documentation."""
    return HTMLResponse(_PAGE)


@router.get("/healthz", responses=refusals())
async def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "ok"}


@router.get("/readyz", responses=refusals(503))
async def readyz(service: ServiceHere) -> dict[str, object]:
    """Everything needed for an answer is there: models loaded, runner alive, job database reachable."""
    parts = await service.parts()
    missing = [name for name, answers in parts.items() if not answers]
    if missing:
        raise NotReadyError(f"not ready: {', '.join(missing)}")
    return {"status": "ready", "parts": parts}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **refusals(503)})
async def metrics(service: ServiceHere) -> Response:
    """Prometheus text."""
    await service.parts()
    await service.ask_engine()
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
