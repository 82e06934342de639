"""What a model server says when it refuses: the status of each error, and the problem body (RFC 9457) for who sent a raw clip."""

from __future__ import annotations

from chronolens import errors
from chronolens.errors import ChronolensError
from chronolens.schemas import Problem, ProblemEntry
from chronolens.statuses import STATUS, status_in

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

UNPARSABLE = ("malformed-json", "malformed-body")
"""Codes of bytes that do not parse, which is no fault of what they say: 400."""


def status_of(error: ChronolensError) -> int:
    """Return the HTTP status of an error; 500 when the table does not know it."""
    if error.code in UNPARSABLE:
        return 400
    return status_in(STATUS, error)


def problem(error: ChronolensError, *, instance: str, request_id: str) -> bytes:
    """Return the body that refuses a raw clip; what might name files of the server shows nothing of itself."""
    status = status_of(error)
    detail = "the weights of this model cannot be used" if isinstance(error, errors.WeightsError) else error.detail
    if error.allowed:
        detail = f"{detail}; allowed: {', '.join(error.allowed)}"
    entries = [] if error.pointer is None else [ProblemEntry(code=error.code, detail=detail, pointer=error.pointer)]
    body = Problem(
        type=f"urn:chronolens:problem:{error.code}",
        title=error.code.replace("-", " ").capitalize(),
        status=status,
        detail=detail,
        instance=instance,
        code=error.code,
        request_id=request_id,
        errors=entries,
        limit=error.limit,
        observed=error.observed,
        retry_after=RETRY_AFTER_S if status == 503 else None,
    )
    return body.model_dump_json().encode()
