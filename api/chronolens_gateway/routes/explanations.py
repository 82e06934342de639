"""One clip in, a job out; look at it, wait for it, list, remove."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request, Response

from chronolens.options import ExplanationOptions, check_against
from chronolens.schemas import Job, JobPage, Status
from chronolens_gateway.errors import RequestError, request_id_of
from chronolens_gateway.forms import CLIP, received_form
from chronolens_gateway.jobs import FINAL, PREFIX
from chronolens_gateway.openapi import UPLOAD, refusals, upload_body
from chronolens_gateway.parameters import FIELDS, OPTIONS, find_model, read_options
from chronolens_gateway.service import Service, ServiceHere
from chronolens_gateway.storage import is_job_id

router = APIRouter(prefix=PREFIX, tags=["explanations"])
_PARTS = frozenset({CLIP, OPTIONS, *FIELDS})
_LOOK_S = 0.1
_RETRY_AFTER_S = "1"
_MOST_JOBS = 100


@router.post(
    "",
    status_code=202,
    responses={200: {"model": Job, "description": "Finished within the time of `Prefer: wait=N`."}, **refusals(*UPLOAD)},
    openapi_extra=upload_body("ExplanationOptions", FIELDS),
)
async def create_explanation(request: Request, response: Response, service: ServiceHere) -> Job:
    """Accept one clip for explanation. The clip is decoded before the answer, so what is wrong with it is told at once."""
    wait_s = _wanted_wait(request, service)
    async with received_form(request, service.storage.uploads, _PARTS, service.limits) as form:
        options = read_options(ExplanationOptions, form.texts, service.limits)
        info = find_model(await service.models(), options.model)
        check_against(options, info)
        service.metrics.upload_bytes.observe(form.clip_bytes)
        clip, decode_s = await service.decode(form.clip, options, info)
    submit = partial(service.jobs.submit, clip, options, info, decode_s=decode_s, request_id=request_id_of(request))
    job_id = await service.call(submit)
    service.metrics.jobs_accepted.labels(info.name).inc()
    return await _answer(service, job_id, wait_s, response, accepted=True)


@router.get("", responses=refusals(422, 503))
async def list_explanations(
    service: ServiceHere,
    status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_JOBS)] = 20,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> JobPage:
    """Jobs, newest first, without their results."""
    if cursor is not None and not is_job_id(cursor):
        raise RequestError("the cursor is not one that a page gave out", code="invalid-cursor")
    return await service.call(partial(service.jobs.page, limit=limit, before=cursor, status=status))


@router.get("/{job_id}", responses=refusals(404, 410, 503))
async def get_explanation(job_id: str, request: Request, response: Response, service: ServiceHere) -> Job:
    """One job: its state, progress, and result when it has ended. `Prefer: wait=N` waits for the end."""
    return await _answer(service, job_id, _wanted_wait(request, service), response, accepted=False)


@router.delete("/{job_id}", status_code=204, responses=refusals(404, 410, 503))
async def delete_explanation(job_id: str, service: ServiceHere) -> None:
    """Cancel a job and remove its data; from then on the job answers 410."""
    await service.call(partial(service.jobs.remove, job_id))


async def _answer(service: Service, job_id: str, wait_s: float, response: Response, *, accepted: bool) -> Job:
    """Return the job, when it ends or when the caller's patience does; only a new job that has not ended answers 202."""
    deadline = time.monotonic() + wait_s
    while True:
        snapshot = await service.call(partial(service.jobs.snapshot, job_id))
        left = deadline - time.monotonic()
        if snapshot.status in FINAL or left <= 0 or service.stopping():
            break
        await anyio.sleep(min(_LOOK_S, left))
    job = await service.call(partial(service.jobs.get, job_id))
    response.headers["Location"] = f"{PREFIX}/{job_id}"
    if job.status not in FINAL:
        response.headers["Retry-After"] = _RETRY_AFTER_S
    waited = accepted and wait_s > 0
    response.status_code = 200 if (job.status in FINAL and waited) or not accepted else 202
    if wait_s > 0:
        response.headers["Preference-Applied"] = f"wait={wait_s:g}"
    return job


def _wanted_wait(request: Request, service: Service) -> float:
    """Return N of ``Prefer: wait=N`` in seconds, at most the limit; other preferences are ignored, as the standard wants."""
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].strip().partition("=")
        if name.strip().lower() == "wait":
            value = value.strip().strip('"')
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise RequestError("Prefer: wait needs a whole number of seconds", code="invalid-header")
            return min(float(value), service.limits.wait_s)
    return 0.0
