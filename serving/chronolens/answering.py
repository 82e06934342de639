"""The engine's side of every call: bodies in, bodies out, whatever server carries them.

Calls that arrive together share passes where they can. A batch that fails is done again one by one, so one bad call never fails its
neighbours; each call gets its own answer or its own refusal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chronolens.engine import Engine, LookRequest, ScoreRequest
from chronolens.engine_wire import Call, Facts, pack_answer, pack_error
from chronolens.errors import ChronolensError, EngineUnavailableError, OptionsError
from chronolens.explain.memory import ran_out
from chronolens.explain.temporal_mask import SLICE
from chronolens.explain.words import Operator
from chronolens.mask_slices import LearnRequest
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.wire import Arrays

Result = tuple[Arrays, Facts]
Request = LookRequest | LearnRequest | ScoreRequest | None
T = TypeVar("T")
_log = logging.getLogger(__name__)


Budget = Annotated[float, Field(ge=0, le=60)]
"""Seconds that one call may take, well below the time after which servers take a worker for dead."""


class _Arguments(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Look(_Arguments):
    target: int | None
    gradcam: GradCamOptions | None


class _Learn(_Arguments):
    target: int
    operator: Operator
    mask: MaskOptions
    state: dict[str, Any] | None
    max_steps: Annotated[int, Field(ge=1, le=SLICE)]
    budget_s: Budget
    known: list[list[Any]]


class _Score(_Arguments):
    target: int
    masks: dict[Operator, list[float]]
    mask: MaskOptions
    known: list[list[Any]]
    budget_s: Budget


_KINDS: dict[str, tuple[type[_Arguments], Any]] = {
    "look": (_Look, LookRequest),
    "learn": (_Learn, LearnRequest),
    "score": (_Score, ScoreRequest),
}


@dataclass(frozen=True)
class Answer:
    """What goes back for one body.

    Args:
        body: packed answer or refusal.
        call: what was asked; None when the body was no call.
        error: why it was refused; None when it was answered.
    """

    body: bytes
    call: Call | None = None
    error: ChronolensError | None = None


def answer_all(engine: Engine, bodies: Sequence[bytes]) -> list[Answer]:
    """Answer packed calls, in order. Never raises for anything that a call brought with it."""
    read = [guarded(lambda body=body: Call.unpack(body)) for body in bodies]  # type: ignore[misc]
    results = iter(run_all(engine, [call for call in read if isinstance(call, Call)]))
    return [_answer(call, next(results)) if isinstance(call, Call) else Answer(pack_error("", call), None, call) for call in read]


def run_all(engine: Engine, calls: Sequence[Call]) -> list[Result | ChronolensError]:
    """Run calls, those that can together, and return a result or an error for each, in order."""
    found: dict[int, Result | ChronolensError] = {}
    groups: dict[object, list[tuple[int, Request]]] = {}
    for index, call in enumerate(calls):
        request = guarded(lambda call=call: _request(engine, call))  # type: ignore[misc]
        if isinstance(request, ChronolensError):
            found[index] = request
        else:
            groups.setdefault(_group(index, call, request), []).append((index, request))
    for members in groups.values():
        for start in range(0, len(members), engine.max_batch):
            chosen = members[start : start + engine.max_batch]
            results = _together(engine, calls[chosen[0][0]], [request for _, request in chosen])
            found |= {index: result for (index, _), result in zip(chosen, results, strict=True)}
    return [found[index] for index in range(len(calls))]


def guarded(work: Callable[[], T]) -> T | ChronolensError:
    """Run some work and return what it returns, or the error to report in its place."""
    try:
        return work()
    except ChronolensError as error:
        return error
    except Exception as error:  # whatever went wrong here must not take the other calls with it
        if ran_out(error):
            return EngineUnavailableError("the engine has not enough memory for this request", code="engine-out-of-memory")
        _log.exception("a call failed")
        return ChronolensError("the engine failed on this request; the failure has been recorded")


def _answer(call: Call, result: Result | ChronolensError) -> Answer:
    if isinstance(result, ChronolensError):
        return Answer(pack_error(call.id, result), call, result)
    return Answer(pack_answer(call.id, *result), call)


def _request(engine: Engine, call: Call) -> Request:
    """Return what a call asks of the engine, once nothing of the call itself is wrong."""
    call.require_time()
    if call.weights is not None:
        engine.require_weights(call.model, call.weights)
    if call.operation == "describe":
        return None
    if call.frames is None:
        raise OptionsError("the call has no frames", code="malformed-body")
    arguments, request = _KINDS[call.operation]
    try:
        read = arguments.model_validate(call.arguments)
    except ValidationError as error:
        raise OptionsError("the call lacks an argument, or has one of a wrong kind", code="malformed-body") from error
    found: Request = request(call.frames, **{name: getattr(read, name) for name in arguments.model_fields})
    return found


def _group(index: int, call: Call, request: Request) -> object:
    """Return what calls must have in common to share passes; a call that shares none gets a key of its own."""
    if isinstance(request, LookRequest):
        return (call.model, request.gradcam and request.gradcam.model_dump_json(), request.target is None)
    # the exhaustive search fills its passes by itself
    if isinstance(request, LearnRequest) and "exhaustive" not in (request.mask.preset, request.mask.init):
        return (call.model, "learn")
    return index


def _together(engine: Engine, call: Call, requests: Sequence[Request]) -> list[Result | ChronolensError]:
    """Run the requests of one group, of which ``call`` is one, in one go; when that fails, each alone."""
    found = guarded(lambda: _run(engine, call, requests))
    if not isinstance(found, ChronolensError):
        return found
    if len(requests) == 1:
        return [found]
    return [_together(engine, call, [request])[0] for request in requests]


def _run(engine: Engine, call: Call, requests: Sequence[Request]) -> list[Result | ChronolensError]:
    first = requests[0]
    if isinstance(first, LookRequest):
        return list(engine.look_many(call.model, [request for request in requests if isinstance(request, LookRequest)]))
    if isinstance(first, LearnRequest):
        learned = engine.learn_many(call.model, [request for request in requests if isinstance(request, LearnRequest)])
        return [facts if isinstance(facts, ChronolensError) else ({}, facts) for facts in learned]
    if isinstance(first, ScoreRequest):
        wanted = (first.frames, first.target, first.masks, first.mask, first.known)
        return [({}, engine.score(call.model, *wanted, budget_s=first.budget_s))]
    infos = [engine.describe(call.model)] if call.model else engine.models()
    return [({}, {"models": [info.model_dump(mode="json") for info in infos]})]
