"""The table from exceptions to status codes, on top of the library's own, and the one builder of problem bodies (RFC 9457).

Bodies never hold a path of the disk, an address, a traceback, a library version or the client's file name.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from chronolens import errors as library
from chronolens import statuses
from chronolens.errors import ChronolensError
from chronolens.schemas import Problem, ProblemEntry

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
_LONGEST_INSTANCE = 200
_OPEN_INFERENCE = "/v2"
_log = logging.getLogger("chronolens_gateway")


class RequestError(ChronolensError):
    """The bytes of the request do not parse."""

    code = "bad-request"


class BodyTooLargeError(ChronolensError):
    """The body, or one part of it, has too many bytes."""

    code = "too-large"


class UnsupportedBodyError(ChronolensError):
    """The body's media type or encoding is not taken."""

    code = "unsupported-media-type"


class FormError(ChronolensError):
    """The form parses, but lacks a part or has one too many."""

    code = "missing-part"

    def __init__(self, detail: str, *, code: str, part: str) -> None:
        super().__init__(detail, code=code)
        self.entries = [ProblemEntry(code=code, detail=detail, part=part)]


class InvalidOptionsError(library.OptionsError):
    """Several options are wrong at once; ``entries`` names each."""

    def __init__(self, detail: str, entries: Sequence[ProblemEntry], *, limit: float | None, observed: float | None) -> None:
        super().__init__(detail, code=entries[0].code, limit=limit, observed=observed)
        self.entries = list(entries)


class NotFoundError(ChronolensError):
    """There is no such thing, or it is not yours."""

    code = "not-found"


class GoneError(ChronolensError):
    """It was there and has been removed."""

    code = "gone"


class ConflictError(ChronolensError):
    """It cannot be had in this state."""

    code = "conflict"


class RangeError(ChronolensError):
    """The byte range lies outside the file."""

    code = "range-not-satisfiable"


class NotReadyError(ChronolensError):
    """The service is starting, stopping or lacks one of its parts."""

    code = "not-ready"


class DataFolderInUseError(ChronolensError):
    """Another service holds the data folder; this one does not start."""

    code = "data-folder-in-use"


class AttemptsExhaustedError(ChronolensError):
    """The process that worked on the job died again and again."""

    code = "attempts-exhausted"


STATUS: statuses.Table = {
    **statuses.STATUS,
    RequestError: 400,
    NotFoundError: 404,
    ConflictError: 409,
    GoneError: 410,
    BodyTooLargeError: 413,
    UnsupportedBodyError: 415,
    RangeError: 416,
    FormError: 422,
    AttemptsExhaustedError: 500,
    NotReadyError: 503,
    SQLAlchemyError: 503,
}


def status_of(error: BaseException) -> int:
    """Return the status of an exception; 500 when the table does not know it."""
    return statuses.status_in(STATUS, error)


def _is_store_failure(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def problem_of(error: BaseException, *, instance: str, request_id: str) -> Problem:
    """Return the problem body of an exception. What is no :class:`ChronolensError` shows nothing of itself."""
    status = status_of(error)
    if _is_store_failure(error):
        status, error = 503, NotReadyError("the storage of the service takes nothing at present", code="store-unavailable")
    elif isinstance(error, SQLAlchemyError):
        error = NotReadyError("the job database does not answer", code="store-unavailable")
    elif isinstance(error, library.WeightsError):  # its text may name files of the server
        error = NotReadyError("the weights of this model cannot be used", code=error.code)
    elif not isinstance(error, ChronolensError):
        error = ChronolensError("the service failed on this request; the failure has been recorded", code="internal-error")
    detail = error.detail
    if error.allowed:
        detail = f"{detail}; allowed: {', '.join(error.allowed)}"
    entries = list(getattr(error, "entries", []))
    if not entries and error.pointer is not None:
        entries = [ProblemEntry(code=error.code, detail=detail, pointer=error.pointer)]
    return _problem(status, error.code, detail, instance, request_id, entries, error.limit, error.observed)


def _problem(
    status: int,
    code: str,
    detail: str,
    instance: str,
    request_id: str,
    entries: list[ProblemEntry] | None = None,
    limit: float | None = None,
    observed: float | None = None,
) -> Problem:
    return Problem(
        type=f"urn:chronolens:problem:{code}",
        title=code.replace("-", " ").capitalize(),
        status=status,
        detail=detail,
        instance=instance,
        code=code,
        request_id=request_id,
        errors=entries or [],
        limit=limit,
        observed=observed,
        retry_after=RETRY_AFTER_S if status in (429, 503) else None,
    )


def respond(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """Return the response that carries a problem."""
    extra = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    return JSONResponse(_spoken(problem), status_code=problem.status, headers={**extra, **(headers or {})}, media_type=MEDIA_TYPE)


def instance_of(request: Request) -> str:
    """Return the request's path, percent-encoded and cut, so that nothing strange is echoed."""
    return quote(request.url.path, safe="/")[:_LONGEST_INSTANCE]


def request_id_of(request: Request) -> str:
    """Return the identifier that the middleware gave to this request."""
    return str(getattr(request.state, "request_id", ""))


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make every refusal of the application a problem.

    Args:
        routes: all routes, from which a 405 takes the methods that would have been right.
    """
    app.state.known_routes = routes
    app.add_exception_handler(ChronolensError, _known)
    app.add_exception_handler(SQLAlchemyError, _known)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Exception, _unexpected)


async def _known(request: Request, error: Exception) -> Response:
    problem = problem_of(error, instance=instance_of(request), request_id=request_id_of(request))
    request.scope["problem_code"] = problem.code
    headers = {}
    if problem.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["Connection"] = "close"  # the rest of the body is not wanted
    if isinstance(error, RangeError) and error.limit is not None:
        headers["Content-Range"] = f"bytes */{int(error.limit)}"
    return respond(problem, headers)


def _spoken(problem: Problem) -> dict[str, Any]:
    """Return the body of a problem; clients of the Open Inference Protocol look for a member ``error``."""
    body = problem.model_dump(mode="json", exclude_none=True)
    return {**body, "error": problem.detail} if problem.instance.startswith(_OPEN_INFERENCE) else body


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected failure", exc_info=error)
    return await _known(request, error)


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "-")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    request.scope["problem_code"] = code
    problem = _problem(error.status_code, code, phrase, instance_of(request), request_id_of(request))
    return respond(problem, headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of every route with this path; the router itself names those of the first one only."""
    allowed: set[str] = set()
    for route in request.app.state.known_routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            allowed |= set(getattr(route, "methods", None) or ())
    return sorted(allowed)


async def _validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    entries = []
    for one in error.errors():
        where = [str(part) for part in one["loc"]]
        code = "invalid-parameter"
        entries.append(ProblemEntry(code=code, detail=f"{where[-1][:60]}: {one['msg']}", pointer="/" + "/".join(where)[:200]))
    request.scope["problem_code"] = "invalid-parameter"
    detail = entries[0].detail if entries else "a parameter is wrong"
    return respond(_problem(422, "invalid-parameter", detail, instance_of(request), request_id_of(request), entries))
