"""One model behind a model server of somebody else's: packed calls and raw clips in, answers out, batches in shared passes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chronolens.answering import Answer, answer_all, guarded
from chronolens.clips import ClipSpec
from chronolens.engine import Engine
from chronolens.engine_client import Transport
from chronolens.errors import ChronolensError, WeightsError
from chronolens.golden import check_golden, golden_frames
from chronolens.model_server import raw_clip, refusals
from chronolens.model_server.raw_clip import RawClip, answer_raw
from chronolens.model_server.rounds import converse
from chronolens.models.weights import read_records
from chronolens.options import GradCamOptions
from chronolens.wire import MEDIA_TYPE

GOLDEN = "golden.json"
"""Beside the weights: ``seed`` of the golden clip and the ``scores`` (K,) that the network gave it when it was exported."""


@dataclass(frozen=True)
class Packed:
    """A request that is a packed call, see :meth:`chronolens.engine_wire.Call.pack`."""

    body: bytes


Inquiry = Packed | RawClip | ChronolensError
"""One request of a batch; an error stands for one that could not be read."""


@dataclass(frozen=True)
class Reply:
    """What goes back for one request.

    Args:
        status: HTTP status; a refused call too has a packed answer for its body, from which the error can be rebuilt.
        operation: of the call, ``predict`` or ``explain`` for a raw clip, ``unknown`` when it could not be read.
        outcome: ``ok``, or the code of the error.
    """

    status: int
    media_type: str
    body: bytes
    operation: str
    outcome: str


class ModelServer:
    """The one model of a store, checked and warm.

    Args:
        store: folder with exactly one weights record, its file and ``golden.json``, such as an unpacked archive.
        device: torch device; CUDA when there is one, else the CPU, when None.
        name: of the kind of server, which answers bear as their backend.

    Raises:
        WeightsError: the store holds no model or several, its weights are not those of the record, or the model does not answer to the
            golden clip as it did when it was exported (``golden-clip``).
    """

    def __init__(self, store: Path, device: str | None = None, *, name: str) -> None:
        self.engine = Engine(store, device, own=())  # a plugin that the one record names is opened, others are not even imported
        self.name = name
        names = list(read_records(store))
        if len(names) != 1:
            raise WeightsError("a model server needs a store with exactly one model")
        self.info = self.engine.describe(names[0]).model_copy(update={"backend": name})
        self._reported: Counter[tuple[str, str]] = Counter()
        self._warm_up(store)

    def answer(self, bodies: Sequence[bytes]) -> list[Answer]:
        """Answer packed calls, in order. Never raises for anything that a call brought with it."""
        return answer_all(self.engine, bodies)

    def reply(self, inquiries: Sequence[Inquiry], ids: Sequence[str]) -> list[Reply]:
        """Answer the requests of one batch, in order, each with its own answer or its own refusal.

        Args:
            ids: of the requests, for their problem bodies.
        """
        packed = [(index, inquiry.body) for index, inquiry in enumerate(inquiries) if isinstance(inquiry, Packed)]
        raw = [(index, inquiry) for index, inquiry in enumerate(inquiries) if isinstance(inquiry, RawClip)]
        unread = [(index, inquiry) for index, inquiry in enumerate(inquiries) if isinstance(inquiry, ChronolensError)]
        ends_at = time.monotonic() + raw_clip.LONGEST_S
        talks = [self._talk(request, ids[index], ends_at) for index, request in raw]
        told, answers = converse(talks, self.answer, name=self.name, ends_at=ends_at, first=[body for _, body in packed])
        replies = {index: self._refused("unknown", error, ids[index]) for index, error in unread}
        replies |= {index: _packed_reply(one) for (index, _), one in zip(packed, answers, strict=True)}
        replies |= {index: reply for (index, _), reply in zip(raw, told, strict=True)}
        return [replies[index] for index in range(len(inquiries))]

    def new_passes(self) -> list[tuple[str, str, int]]:
        """Return purpose, direction and number of the passes since this was asked last, see :meth:`chronolens.engine.Engine.passes`."""
        counted = Counter({(entry["purpose"], entry["direction"]): entry["passes"] for entry in self.engine.passes()})
        new = counted - self._reported
        self._reported = counted
        return [(purpose, direction, count) for (purpose, direction), count in sorted(new.items())]

    def _talk(self, request: RawClip, request_id: str, ends_at: float) -> Callable[[Transport], Reply]:
        operation = "explain" if request.explain else "predict"

        def talk(transport: Transport) -> Reply:
            found = guarded(lambda: answer_raw(request, self.info, transport, ends_at))
            if isinstance(found, ChronolensError):
                return self._refused(operation, found, request_id)
            return Reply(200, raw_clip.MEDIA_TYPE, found, operation, "ok")

        return talk

    def _refused(self, operation: str, error: ChronolensError, request_id: str) -> Reply:
        instance = f"/{'explanations' if operation == 'explain' else 'predictions'}/{self.info.name}"
        body = refusals.problem(error, instance=instance, request_id=request_id)
        return Reply(refusals.status_of(error), refusals.MEDIA_TYPE, body, operation, error.code)

    def _warm_up(self, store: Path) -> None:
        """Ask about the golden clip, forward and backward, so that the first request is as fast as the next."""
        try:
            golden = json.loads((store / GOLDEN).read_bytes())
            seed, expected = int(golden["seed"]), [float(score) for score in golden["scores"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError("the store does not tell what the model has to answer to the golden clip", code="golden-clip") from error
        spec = ClipSpec(**self.info.clip.model_dump())
        gradcam = GradCamOptions() if "gradcam" in self.info.methods else None
        arrays, _ = self.engine.look(self.info.name, golden_frames(spec, seed), target=None, gradcam=gradcam)
        check_golden(arrays["scores"], expected)


def is_packed(body: bytes) -> bool:
    """Tell a packed call from a clip by its bytes: a safetensors header, whose length comes first, begins with a brace; no video does."""
    return body[8:9] == b"{" and int.from_bytes(body[:8], "little") <= len(body) - 8


def _packed_reply(answer: Answer) -> Reply:
    operation = "unknown" if answer.call is None else answer.call.operation
    if answer.error is None:
        return Reply(200, MEDIA_TYPE, answer.body, operation, "ok")
    return Reply(refusals.status_of(answer.error), MEDIA_TYPE, answer.body, operation, answer.error.code)
