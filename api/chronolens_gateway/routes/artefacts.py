"""The files of a finished job."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import MutableHeaders
from starlette.types import Receive, Scope, Send

from chronolens.schemas import Artefact
from chronolens_gateway.errors import ConflictError, NotFoundError, RangeError
from chronolens_gateway.jobs import PREFIX
from chronolens_gateway.openapi import refusals
from chronolens_gateway.service import Service, ServiceHere

router = APIRouter(prefix=PREFIX, tags=["explanations"])
_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")


class _Whole(FileResponse):
    """Sends the whole file, whatever range the request names."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(raw=[pair for pair in scope["headers"] if pair[0] != b"range"])
        await super().__call__({**scope, "headers": headers.raw}, receive, send)


@router.get(
    "/{job_id}/artefacts/{name}",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file."},
        206: {"description": "The bytes of `Range`."},
        304: {"description": "The file is the one that `If-None-Match` names."},
        **refusals(404, 409, 410, 416, 503),
    },
)
async def artefact(job_id: str, name: str, request: Request, service: ServiceHere) -> Response:
    """One file, with ranges and a strong ETag (its SHA-256)."""
    found = await service.call(partial(_find, service, job_id, name))
    path = service.storage.files(job_id) / found.name
    headers = {"ETag": f'"{found.sha256}"', "Cache-Control": "private, max-age=3600", "Content-Security-Policy": "sandbox"}
    if headers["ETag"] in [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    stat = await service.call(partial(_stat, path))
    kind = FileResponse if _single_range(request.headers.get("range"), stat.st_size) else _Whole
    return kind(path, headers=headers, media_type=found.media_type, stat_result=stat)


def _find(service: Service, job_id: str, name: str) -> Artefact:
    """Return the artefact as the result lists it; a name that is not listed is never looked up on disk."""
    job = service.jobs.get(job_id)
    if job.result is None:
        raise ConflictError(f"the job has no files: it is {job.status}", code="job-not-finished")
    for one in job.result.artefacts:
        if one.name == name:
            return one
    raise NotFoundError("the job has no artefact of that name")


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise NotFoundError("the file has been removed") from error


def _single_range(header: str | None, size: int) -> bool:
    """Return whether a header names one usable range. Several ranges or nonsense get the whole file, as the standard allows.

    Raises:
        RangeError: the one range begins behind the end.
    """
    match = _ONE_RANGE.match(header.strip()) if header else None
    if match is None or match.group() == "bytes=-":
        return False
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return False
    if (first and int(first) >= size) or (not first and int(last) == 0):
        raise RangeError("the range lies outside the file", limit=size)
    return True
