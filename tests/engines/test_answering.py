"""Packed calls to a real engine: alone and in company the same, and nobody pays for a neighbour's fault."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chronolens import answering
from chronolens.answering import Answer, answer_all
from chronolens.clips import DecodedClip
from chronolens.engine import Engine
from chronolens.engine_wire import Call, head_of, unpack_answer
from chronolens.errors import (
    ChronolensError,
    ClipError,
    DeadlineExceededError,
    EngineUnavailableError,
    NonFiniteResultError,
    OptionsError,
    UnknownClassError,
    UnknownLayerError,
    UnknownModelError,
    WeightsError,
)
from chronolens.options import MaskOptions

GRADCAM = {"layers": ["default"], "weights": "per_frame", "of": "logit"}
MODELS = ["tiny-i3d", "tiny-clstm"]


@pytest.fixture(scope="module")
def engine(tiny_store: Path) -> Engine:
    return Engine(tiny_store, "cpu")


@pytest.fixture
def frames(clip: DecodedClip) -> list[np.ndarray[Any, Any]]:
    """Four different clips of 8 x 32 x 32."""
    whole = clip.frames[:, :32, :32]
    return [np.ascontiguousarray(np.roll(whole, 5 * shift, axis=2)) for shift in range(4)]


def look(model: str, pixels: Any, target: int | None = None, gradcam: Any = None) -> Call:
    return Call("look", model, pixels, {"target": target, "gradcam": gradcam})


def learn(model: str, pixels: Any, target: int = 0, state: Any = None, **options: Any) -> Call:
    mask = MaskOptions(**{"steps": 6, **options}).model_dump(mode="json")
    limits = {"max_steps": 25, "budget_s": 60.0, "known": []}
    return Call("learn", model, pixels, {"target": target, "operator": "freeze", "mask": mask, "state": state, **limits})


def results(engine: Engine, calls: list[Call]) -> list[Any]:
    answers = answer_all(engine, [call.pack() for call in calls])
    return [_opened(call, answer) for call, answer in zip(calls, answers, strict=True)]


def _opened(call: Call, answer: Answer) -> Any:
    if answer.error is None:
        return unpack_answer(call.id, answer.body)
    with pytest.raises(type(answer.error)) as caught:
        unpack_answer(call.id, answer.body)
    return caught.value


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("gradcam", [None, GRADCAM])
def test_looks_in_company_are_looks_alone(engine: Engine, frames: list[Any], model: str, gradcam: Any) -> None:
    calls = [look(model, pixels, target, gradcam) for pixels, target in zip(frames, [None, 2, None, 0], strict=True)]
    together = results(engine, calls)
    for call, (arrays, facts) in zip(calls, together, strict=True):
        ((alone, alone_facts),) = results(engine, [call])
        assert arrays.keys() == alone.keys()
        for name in arrays:
            np.testing.assert_allclose(arrays[name], alone[name], atol=1e-5)
        assert {**facts, "seconds": 0, "known": 0, "blobs": 0} == {**alone_facts, "seconds": 0, "known": 0, "blobs": 0}


def test_looks_of_one_kind_share_a_pass(engine: Engine, frames: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    kept = engine.look_many

    def counted(model: str, requests: Any) -> Any:
        batches.append(len(requests))
        return kept(model, requests)

    monkeypatch.setattr(engine, "look_many", counted)
    calls = [look("tiny-i3d", pixels) for pixels in frames] + [look("tiny-clstm", frames[0]), look("tiny-i3d", frames[0], gradcam=GRADCAM)]
    results(engine, calls)
    assert sorted(batches) == [1, 1, 4]
    monkeypatch.setattr(engine, "max_batch", 3)
    batches.clear()
    results(engine, calls[:4])
    assert batches == [3, 1]


@pytest.mark.parametrize("model", MODELS)
def test_masks_in_company_agree_with_masks_alone(engine: Engine, frames: list[Any], model: str) -> None:
    calls = [learn(model, pixels, target) for pixels, target in zip(frames, [0, 1, 2, 3], strict=True)]
    together = [facts for _, facts in results(engine, calls)]
    alone = [results(engine, [call])[0][1] for call in calls]
    assert all(facts["done"] for facts in [*together, *alone])
    for one, other in zip(together, alone, strict=True):
        assert one["learned"]["objective"]["total"] == pytest.approx(other["learned"]["objective"]["total"], abs=1e-3)


def test_masks_in_company_are_learned_slice_by_slice(engine: Engine, frames: list[Any]) -> None:
    whole = [facts for _, facts in results(engine, [learn("tiny-clstm", pixels, preset="paper", steps=7) for pixels in frames[:2]])]
    states: list[Any] = [None, None]
    slices = 0
    while True:
        calls = [learn("tiny-clstm", pixels, state=state, preset="paper", steps=7) for pixels, state in zip(frames, states, strict=False)]
        for call in calls:
            call.arguments["max_steps"] = 2
        found = [facts for _, facts in results(engine, calls)]
        states = [facts["state"] for facts in found]
        slices += 1
        if all(facts["done"] for facts in found):
            break
    assert slices >= 4
    for one, other in zip(whole, found, strict=True):
        np.testing.assert_allclose(one["values"], other["values"], atol=1e-6)


def bad_calls(pixels: Any) -> dict[str, tuple[Call, type[ChronolensError], str]]:
    good = look("tiny-i3d", pixels)
    return {
        "unknown model": (replace(good, model="nobody"), UnknownModelError, "unknown-model"),
        "no frames": (replace(good, frames=None), OptionsError, "malformed-body"),
        "wrong size": (replace(good, frames=pixels[:, :30]), ClipError, "wrong-clip-shape"),
        "wrong type": (replace(good, frames=pixels.astype(np.float32)), ClipError, "wrong-clip-shape"),
        "no such class": (look("tiny-i3d", pixels, 99), UnknownClassError, "unknown-class"),
        "no such layer": (look("tiny-i3d", pixels, None, {**GRADCAM, "layers": ["nowhere"]}), UnknownLayerError, "unknown-layer"),
        "late": (replace(good, expires_at=time.time() - 1), DeadlineExceededError, "deadline-exceeded"),
        "other weights": (replace(good, weights="ab" * 32), WeightsError, "weights-changed"),
        "no arguments": (replace(good, arguments={}), OptionsError, "malformed-body"),
        "strange argument": (replace(good, arguments={"target": "x", "gradcam": None}), OptionsError, "malformed-body"),
        "option out of range": (
            learn("tiny-i3d", pixels).__class__(**{**vars(learn("tiny-i3d", pixels)), "arguments": {"mask": {"l1": -1}}}),
            OptionsError,
            "malformed-body",
        ),
        "no such operator": (
            replace(learn("tiny-i3d", pixels), arguments={**learn("tiny-i3d", pixels).arguments, "operator": "x"}),
            OptionsError,
            "malformed-body",
        ),
    }


@pytest.mark.parametrize("fault", bad_calls(np.zeros((8, 32, 32, 3), np.uint8)))
def test_one_bad_call_fails_alone(engine: Engine, frames: list[Any], fault: str) -> None:
    bad, kind, code = bad_calls(frames[0])[fault]
    good = [look("tiny-i3d", frames[1]), learn("tiny-i3d", frames[2])]
    found = results(engine, [good[0], bad, good[1]])
    assert type(found[1]) is kind
    assert found[1].code == code
    for one, call in ((found[0], good[0]), (found[2], good[1])):
        assert not isinstance(one, ChronolensError), one
        assert one[1].keys() == results(engine, [call])[0][1].keys()


def test_bytes_that_are_no_call_fail_alone(engine: Engine, frames: list[Any]) -> None:
    good = look("tiny-i3d", frames[0])
    for body in (b"", b"\x00" * 64, good.pack()[:-5], b"x" * 7):
        answers = answer_all(engine, [body, good.pack()])
        assert isinstance(answers[0].error, OptionsError)
        assert answers[0].error.code == "malformed-body"
        assert unpack_answer(good.id, answers[1].body)[1]["target"] in range(4)


def test_a_clip_that_gives_no_number_fails_alone(engine: Engine, frames: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = engine.load("tiny-clstm").network
    kept = network.forward

    def broken(clips: torch.Tensor) -> torch.Tensor:
        black = clips.flatten(1).amax(1) <= -0.99
        return torch.where(black[:, None], torch.nan, kept(clips))

    monkeypatch.setattr(network, "forward", broken)
    found = results(engine, [look("tiny-clstm", frames[0]), look("tiny-clstm", np.zeros_like(frames[0])), look("tiny-clstm", frames[1])])
    assert isinstance(found[1], NonFiniteResultError)
    assert [one[0]["scores"].shape for one in (found[0], found[2])] == [(4,), (4,)]


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("a bug"), "internal-error"), (MemoryError(), "engine-out-of-memory")])
def test_a_failure_that_only_one_call_meets_is_its_own(
    engine: Engine, frames: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    kept = engine.look_many

    def failing(model: str, requests: Any) -> Any:
        if any(request.target == 3 for request in requests):
            raise error
        return kept(model, requests)

    monkeypatch.setattr(engine, "look_many", failing)
    monkeypatch.setattr(answering._log, "exception", lambda *_: None)
    found = results(engine, [look("tiny-i3d", frames[0], 1), look("tiny-i3d", frames[1], 3), look("tiny-i3d", frames[2], 2)])
    assert [getattr(one, "code", None) for one in found] == [None, code, None]
    assert isinstance(found[1], EngineUnavailableError) == (code == "engine-out-of-memory")
    assert "bug" not in found[1].detail


def test_describe_and_score_are_answered(engine: Engine, frames: list[Any]) -> None:
    mask = MaskOptions().model_dump(mode="json")
    score = Call(
        "score", "tiny-i3d", frames[0], {"target": 1, "masks": {"freeze": [0.0, *[1.0] * 7]}, "mask": mask, "known": [], "budget_s": 60.0}
    )
    one, everything, scored = results(engine, [Call("describe", "tiny-i3d"), Call("describe", ""), score])
    assert [info["name"] for info in one[1]["models"]] == ["tiny-i3d"]
    assert [info["name"] for info in everything[1]["models"]] == ["tiny-clstm", "tiny-i3d"]
    assert scored[1]["soft"]["freeze"] == pytest.approx(scored[1]["soft"]["fully_frozen"])


def test_passes_are_counted_once_each_in_company(engine: Engine, frames: list[Any]) -> None:
    def counted() -> Counter[tuple[str, str]]:
        return Counter(
            {(entry["purpose"], entry["direction"]): entry["passes"] for entry in engine.passes() if entry["model"] == "tiny-i3d"}
        )

    before = counted()
    found = results(engine, [*(look("tiny-i3d", pixels) for pixels in frames), *(learn("tiny-i3d", pixels) for pixels in frames[:2])])
    spent = counted() - before
    assert spent["predict", "forward"] == 4
    assert spent.total() == 4 + sum(facts["learned"]["passes"] for _, facts in found[4:])


def test_the_head_of_a_call_needs_no_frames(frames: list[Any]) -> None:
    heads = [head_of(call.pack()) for call in (look("a", frames[0]), look("a", frames[0], 1, GRADCAM), learn("b", frames[0]))]
    assert [(head.model, head.lane) for head in heads] == [("a", "predict"), ("a", "map"), ("b", "mask")]
    assert head_of(Call("describe", "").pack()).lane == "predict"
