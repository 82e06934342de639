"""What is said to an engine, whichever it is: one call, one answer, both packed arrays with facts. No torch.

A call names its operation, its model and, by a random ``id``, itself; the answer repeats the id, so that no answer is ever taken for the
answer to another request. Model servers carry the same bytes: TorchServe as a body, Triton as a tensor of bytes, the worker pool over its
socket.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import Any, Literal, get_args

from chronolens import errors
from chronolens.clips import Frames
from chronolens.errors import ChronolensError, DeadlineExceededError, EngineUnavailableError, OptionsError
from chronolens.wire import Arrays, facts_of, pack, unpack

Facts = dict[str, Any]
Operation = Literal["describe", "look", "learn", "score"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_ERROR_FIELDS = ("detail", "code", "pointer", "limit", "observed", "allowed")


@dataclasses.dataclass(frozen=True)
class Call:
    """One request to an engine.

    Args:
        operation: ``describe`` the models, or one of :class:`chronolens.pipeline.Engine`'s ``look``, ``learn``, ``score``.
        model: name; empty for ``describe`` of everything that the engine holds.
        frames: uint8 (T, H, W, 3) at the model's own size; None for ``describe``.
        arguments: of the operation, as JSON.
        weights: digest that the model must have; None when any will do.
        expires_at: Unix time in seconds after which nobody waits for the answer; None for never. Clocks of gateway and engine must agree.
        id: random, repeated in the answer.
    """

    operation: Operation
    model: str
    frames: Frames | None = None
    arguments: Facts = dataclasses.field(default_factory=dict)
    weights: str | None = None
    expires_at: float | None = None
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))

    @property
    def lane(self) -> str:
        """What it asks of the network: ``predict`` (somebody waits), ``map``, or ``mask`` (long work in slices)."""
        return lane(self.operation, self.arguments)

    def require_time(self) -> None:
        """Raise DeadlineExceededError when nobody waits any more."""
        if self.expires_at is not None and time.time() >= self.expires_at:
            raise DeadlineExceededError("the time of this request was over before its turn came")

    def pack(self) -> bytes:
        """Return the body that carries this call."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "frames"}
        return pack({} if self.frames is None else {"frames": self.frames}, facts)

    @classmethod
    def unpack(cls, body: bytes) -> Call:
        """Undo :meth:`pack`.

        Raises:
            OptionsError: the bytes are no call (``malformed-body``).
        """
        arrays, facts = unpack(body)
        return cls(**_checked(facts), frames=arrays.get("frames"))


@dataclasses.dataclass(frozen=True)
class Head:
    """What a queue needs to know of a call without reading its frames."""

    id: str
    model: str
    operation: Operation
    lane: str
    expires_at: float | None


def head_of(body: bytes) -> Head:
    """Return the head of a packed call.

    Raises:
        OptionsError: the bytes are no call (``malformed-body``).
    """
    facts = _checked(facts_of(body))
    kind = lane(facts["operation"], facts["arguments"])
    return Head(facts["id"], facts["model"], facts["operation"], kind, facts["expires_at"])


def lane(operation: Operation, arguments: Facts) -> str:
    """Return the lane of a call, see :attr:`Call.lane`."""
    if operation == "describe" or (operation == "look" and arguments.get("gradcam") is None):
        return "predict"
    return "map" if operation == "look" else "mask"


LANES = ("predict", "map", "mask")
"""In the order in which they go first."""


def pack_answer(call_id: str, arrays: Arrays, facts: Facts) -> bytes:
    """Return the body that answers a call."""
    return pack(arrays, {"id": call_id, "facts": facts})


def pack_error(call_id: str, error: ChronolensError) -> bytes:
    """Return the body that refuses a call."""
    fields = {name: getattr(error, name) for name in _ERROR_FIELDS}
    return pack({}, {"id": call_id, "error": {"kind": type(error).__name__, **fields}})


def unpack_answer(call_id: str, body: bytes) -> tuple[Arrays, Facts]:
    """Return arrays and facts of an answer.

    Raises:
        EngineUnavailableError: the bytes are no answer, or that of another call (``engine-garbage``).
        ChronolensError: the engine refused; the same class that it raised.
    """
    try:
        arrays, document = unpack(body)
    except OptionsError as error:
        raise garbage("what came back is no answer") from error
    if document.get("id") != call_id:
        raise garbage("what came back answers another request")
    if isinstance(document.get("error"), dict):
        raise _rebuilt(document["error"])
    facts = document.get("facts")
    if not isinstance(facts, dict):
        raise garbage("the answer has no facts")
    return arrays, facts


def garbage(detail: str) -> EngineUnavailableError:
    """Return the error for an answer that cannot be used."""
    return EngineUnavailableError(f"the engine answered nonsense: {detail}", code="engine-garbage")


def _checked(facts: Facts) -> Facts:
    kinds: dict[str, Any] = {
        "operation": str,
        "model": str,
        "arguments": dict,
        "weights": str | None,
        "expires_at": float | int | None,
        "id": str,
    }
    fits = all(isinstance(facts.get(name), kind) for name, kind in kinds.items()) and facts["operation"] in OPERATIONS
    if not fits or facts.keys() != kinds.keys():
        raise OptionsError("the body is no call to an engine", code="malformed-body")
    return facts


def _rebuilt(fields: Facts) -> ChronolensError:
    """Return the error that the engine raised; only classes of our own tree are ever made."""
    kind = getattr(errors, str(fields.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, ChronolensError)) or not isinstance(fields.get("detail"), str):
        return garbage("it refused without saying why")
    known: Facts = {name: fields[name] for name in _ERROR_FIELDS if fields.get(name) is not None}
    error: ChronolensError = kind(**known)
    return error
