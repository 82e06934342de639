"""The client of every engine: what it asks, and that nonsense never gets past it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chronolens.engine_client import EngineClient
from chronolens.engine_wire import Call, pack_answer, pack_error, unpack_answer
from chronolens.errors import ChronolensError, EngineUnavailableError, NonFiniteResultError, UnknownClassError
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.schemas import ModelInfo

FRAMES = np.zeros((4, 2, 2, 3), np.uint8)
LOOK: dict[str, Any] = {
    "target": 1, "known": [], "blobs": {}, "cells": {}, "pathways": {}, "passes": {}, "seconds": 0.1, "device": "cpu", "dtype": "float32",
}  # fmt: skip
SCORES = np.array([0.25, 0.75])
LEARN: dict[str, Any] = {"state": {}, "done": False, "progress": 1, "total": 2, "seconds": 0.1, "values": [0.0, 0.5, 1.0, 0.0]}
INFO: dict[str, Any] = {
    "name": "m", "architecture": "a", "data_set": "d", "classes": ["x", "y"], "methods": [], "layers": [], "default_layers": ["l"],
    "clip": {"frames": 4, "height": 2, "width": 2, "sampling": "centre", "scale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1]},
    "pathways": [], "weights": "w", "licence": "l", "backend": "elsewhere", "state": "ready",
}  # fmt: skip


class Wire:
    """A transport that answers what it is told."""

    name = "wire"

    def __init__(self, answer: Callable[[Call], bytes]) -> None:
        self.answer = answer
        self.calls: list[tuple[Call, float]] = []

    def send(self, call: Call, body: bytes, timeout_s: float) -> bytes:
        self.calls.append((Call.unpack(body), timeout_s))
        return self.answer(call)

    def sources(self) -> list[str]:
        return [""]


def client(arrays: dict[str, Any], facts: dict[str, Any], **options: Any) -> EngineClient:
    return EngineClient(Wire(lambda call: pack_answer(call.id, arrays, facts)), **options)


def looked(arrays: dict[str, Any], facts: dict[str, Any], *, target: int | None = None, gradcam: bool = False) -> Any:
    return client(arrays, facts).look("m", FRAMES, target=target, gradcam=GradCamOptions() if gradcam else None)


def learned(facts: dict[str, Any]) -> Any:
    return client({}, facts).learn("m", FRAMES, 1, "freeze", MaskOptions(), None, max_steps=25, budget_s=0.2)


def test_a_call_survives_the_way() -> None:
    wire = Wire(lambda call: pack_answer(call.id, {"scores": SCORES}, LOOK))
    before = time.time()
    EngineClient(wire, weights="digest", timeout_s=7).look("m", FRAMES + 9, target=1, gradcam=None)
    ((call, timeout_s),) = wire.calls
    assert (call.operation, call.model, call.weights, call.lane) == ("look", "m", "digest", "predict")
    assert call.arguments == {"target": 1, "gradcam": None}
    assert call.frames is not None
    assert call.frames.dtype == np.uint8
    assert (call.frames == 9).all()
    assert timeout_s == pytest.approx(7, abs=0.5)
    assert call.expires_at == pytest.approx(before + 7, abs=0.5)


def test_good_answers_get_through() -> None:
    assert looked({"scores": SCORES}, LOOK)[1] == LOOK
    mapped = {**LOOK, "cells": {"l": {}}, "pathways": {"l": None}}
    assert looked({"scores": SCORES, "map/l": np.zeros((2, 2, 2))}, mapped, gradcam=True)[1] == mapped
    assert looked({"scores": np.array([np.nan, 1])}, LOOK)[1] == LOOK  # the network's own, and reported as such elsewhere
    assert learned(LEARN) == LEARN
    assert client({}, {"models": [INFO]}).models() == [ModelInfo(**{**INFO, "backend": "wire"})]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: looked({}, LOOK),
        lambda: looked({"scores": SCORES}, {}),
        lambda: looked({"scores": np.array([0.9, 0.9])}, LOOK),
        lambda: looked({"scores": np.array([-0.5, 1.5])}, LOOK),
        lambda: looked({"scores": SCORES[None]}, LOOK),
        lambda: looked({"scores": SCORES}, {**LOOK, "target": 2}),
        lambda: looked({"scores": SCORES}, {**LOOK, "target": "1"}),
        lambda: looked({"scores": SCORES}, LOOK, target=0),
        lambda: looked({"scores": SCORES}, LOOK, gradcam=True),
        lambda: looked({"scores": SCORES, "map/l": np.zeros((2, 2, 2))}, LOOK),
        lambda: looked({"scores": SCORES, "map/l": np.zeros((2, 2))}, {**LOOK, "cells": {"l": {}}, "pathways": {"l": None}}, gradcam=True),
        lambda: learned({}),
        lambda: learned({**LEARN, "values": [0.0, 1.0]}),
        lambda: learned({**LEARN, "values": [0.0, 1.0, 2.0, 0.0]}),
        lambda: learned({**LEARN, "values": None}),
        lambda: learned({**LEARN, "done": True}),
        lambda: learned({**LEARN, "done": True, "learned": {"values": [0.5]}}),
        lambda: client({}, {"done": True, "waiting": 0, "known": [], "passes": {}, "seconds": 0}).score("m", FRAMES, 1, {}, MaskOptions()),
        lambda: client({}, {"models": [{"name": "m"}]}).models(),
        lambda: client({}, {"models": 7}).models(),
        lambda: client({}, {"models": [INFO]}).describe("other"),
    ],
)
def test_an_answer_that_does_not_fit_the_question_is_refused(ask: Callable[[], Any]) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        ask()
    assert caught.value.code == "engine-garbage"


@pytest.mark.parametrize(
    "body",
    [
        lambda _: b"",
        lambda _: b"<html>502 Bad Gateway</html>",
        lambda _: pack_answer("another", {"scores": SCORES}, LOOK),
        lambda call: pack_answer(call.id, {"scores": SCORES}, LOOK)[:-3],
        lambda call: pack_answer(call.id, {}, LOOK).replace(b"facts", b"fakts"),
        lambda call: pack_error(call.id, UnknownClassError("no such class")).replace(b"UnknownClassError", b"SystemExit_______"),
        lambda call: pack_error(call.id, UnknownClassError("no such class")).replace(b'\\"detail\\"', b'\\"detale\\"'),
    ],
)
def test_bytes_that_are_no_answer_are_refused(body: Callable[[Call], bytes]) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        EngineClient(Wire(body)).models()
    assert caught.value.code == "engine-garbage"


def test_a_refusal_comes_back_as_it_was_raised() -> None:
    raised = UnknownClassError("no class 9", pointer="/target", limit=3, observed=9, allowed=["up", "down"])
    with pytest.raises(UnknownClassError) as caught:
        EngineClient(Wire(lambda call: pack_error(call.id, raised))).models()
    for field in ("detail", "code", "pointer", "limit", "observed", "allowed"):
        assert getattr(caught.value, field) == getattr(raised, field)
    with pytest.raises(NonFiniteResultError, match="not finite"):
        unpack_answer("", pack_error("", NonFiniteResultError("not finite")))


def test_every_error_of_the_tree_can_travel() -> None:
    kinds = [ChronolensError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    for kind in (kind for kind in kinds if kind.__module__ == "chronolens.errors"):
        with pytest.raises(kind) as caught:
            unpack_answer("x", pack_error("x", kind("why")))
        assert type(caught.value) is kind
        assert caught.value.code == kind.code
