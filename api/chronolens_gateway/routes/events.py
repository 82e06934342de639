"""A job's progress as server-sent events, resumable with ``Last-Event-ID``."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from chronolens.errors import ChronolensError
from chronolens.schemas import Progress
from chronolens_gateway.errors import RequestError
from chronolens_gateway.jobs import FINAL, PREFIX, Snapshot
from chronolens_gateway.openapi import refusals
from chronolens_gateway.service import Service, ServiceHere

router = APIRouter(prefix=PREFIX, tags=["explanations"])
_LOOK_S = 0.2
_KEEP_ALIVE_S = 15.0


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "`progress`, `partial` (mask so far) and `done` events."},
        204: {"description": "`done` has been received before; do not reconnect."},
        **refusals(404, 410, 503),
    },
)
async def events(job_id: str, request: Request, service: ServiceHere) -> Response:
    """Progress of a job until it ends. Event ids rise; a client that reconnects gets what is newer than the last one it saw."""
    seen = _last_seen(request)
    first = await service.call(partial(service.jobs.snapshot, job_id))
    if first.status in FINAL and seen > first.seq:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(service, job_id, seen), media_type="text/event-stream", headers=headers)


def _last_seen(request: Request) -> int:
    text = request.headers.get("last-event-id", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise RequestError("Last-Event-ID is not one that this stream gave out", code="invalid-header")
    return int(text)


async def _stream(service: Service, job_id: str, seen: int) -> AsyncIterator[str]:
    quiet_since = time.monotonic()
    while not service.stopping():  # the client reconnects and goes on after the restart
        try:
            snapshot = await service.call(partial(service.jobs.snapshot, job_id))
        except ChronolensError as error:  # removed while we watched
            yield _event("done", seen + 1, {"status": "cancelled", "code": error.code})
            return
        ended = snapshot.status in FINAL
        if snapshot.seq > seen and snapshot.progress is not None:
            for text in _progress_events(snapshot, snapshot.progress):
                yield text
            seen, quiet_since = snapshot.seq, time.monotonic()
        if ended:
            yield _event("done", max(seen, snapshot.seq) + 1, {"status": snapshot.status, "href": f"{PREFIX}/{job_id}"})
            return
        if time.monotonic() - quiet_since > _KEEP_ALIVE_S:
            quiet_since = time.monotonic()
            yield ": still here\n\n"
        await anyio.sleep(_LOOK_S)


def _progress_events(snapshot: Snapshot, progress: Progress) -> list[str]:
    facts = progress.model_dump(mode="json")
    values = facts.pop("partial")
    texts = [_event("progress", snapshot.seq, {"status": snapshot.status, **facts})]
    if values is not None:
        texts.append(_event("partial", snapshot.seq, {"phase": facts["phase"], "values": values}))
    return texts


def _event(name: str, number: int, data: dict[str, Any]) -> str:
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
