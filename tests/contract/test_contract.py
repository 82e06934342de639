"""What every engine promises: the same answers, clear refusals, and to come back."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import own_model
from tests.contract.conftest import GENEROUS_S, OWN, PREDICT_TIMEOUT_S, Service, stopped, until
from tests.gateway.conftest import MODEL

from chronolens import local
from chronolens.engine import Engine
from chronolens.engine_client import EngineClient
from chronolens.engine_wire import Call, unpack_answer
from chronolens.errors import (
    DeadlineExceededError,
    EngineCrashedError,
    EngineUnavailableError,
    OptionsError,
    UnknownModelError,
    WeightsError,
)
from chronolens.golden import golden_frames
from chronolens.options import GradCamOptions, MaskOptions
from chronolens_gateway.backends.base import Backend

TOLERANCE = 1e-3
LONG: dict[str, Any] = {"methods": ["freeze"], "artefacts": ["arrays.npz"]}


@pytest.fixture(scope="session")
def engine(store: Path) -> Engine:
    """The networks in this process, which every engine is measured by."""
    return Engine(store, "cpu", own=[own_model.build()])


Expected = dict[str, dict[str, tuple[Any, Any]]]


@pytest.fixture(scope="session")
def expected(engine: Engine, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """Results and arrays of the clip by model and mask preset."""
    found: Expected = {MODEL: {}, OWN: {}}
    for model, preset in itertools.product(found, ("default", "exhaustive")):
        folder = tmp_path_factory.mktemp(preset)
        result = local.explain(clip, out=folder, engine=engine, model=model, top_k=4, mask={"preset": preset}, artefacts=["arrays.npz"])
        found[model][preset] = (result.model_dump(mode="json"), dict(np.load(folder / "arrays.npz")))
    return found


every_model = pytest.mark.parametrize("model", [MODEL, OWN])


def scores_of(answer: Any) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in answer["predictions"]}


def same_prediction(service: Service, clip: Path, expected: Expected, model: str = MODEL) -> None:
    answer = service.predict(clip, model)
    assert answer.status_code == 200, answer.text
    assert scores_of(answer.json()) == pytest.approx(scores_of(expected[model]["default"][0]), abs=1e-4)


def same_prediction_again(service: Service, clip: Path, expected: Expected, model: str = MODEL) -> None:
    """Wait until the engine answers; one that is being repaired may be away a second time, but what it answers is right."""
    answers = []

    def answered() -> bool:
        answers.append(service.predict(clip, model))
        return bool(answers[-1].status_code == 200)

    until(answered)
    assert scores_of(answers[-1].json()) == pytest.approx(scores_of(expected[model]["default"][0]), abs=1e-4)


@every_model
def test_the_same_prediction(service: Service, clip: Path, expected: Expected, model: str) -> None:
    same_prediction(service, clip, expected, model)
    answer, wanted = service.predict(clip, model).json(), expected[model]["default"][0]
    assert answer["backend"] == service.engine.partition("-")[0]
    assert (answer["weights"], answer["clip"], answer["warnings"]) == (wanted["weights"], wanted["clip"], wanted["warnings"])


@pytest.mark.parametrize("preset", ["default", "exhaustive"])
@every_model
def test_the_same_explanation(service: Service, clip: Path, expected: Expected, model: str, preset: str) -> None:
    if preset not in service.info(model).mask_presets:
        refused = service.server.post("/v1/explanations", clip, {"model": model, "mask": {"preset": preset}})
        assert (refused.status_code, refused.json()["code"]) == (422, "method-unavailable")
        return
    asked = {"model": model, "mask": {"preset": preset}, "artefacts": ["arrays.npz"]}
    job = service.server.wait(service.server.submit(clip, **asked), patience_s=GENEROUS_S)
    assert job["status"] == "succeeded", job
    result, (wanted, arrays) = job["result"], expected[model][preset]
    assert result["target"] == wanted["target"]
    assert scores_of(result) == pytest.approx(scores_of(wanted), abs=1e-4)
    for operator, mask in wanted["masks"].items():
        found = result["masks"][operator]
        assert found["objective"]["total"] == pytest.approx(mask["objective"]["total"], abs=TOLERANCE)
        assert found["values"] == pytest.approx(mask["values"], abs=TOLERANCE)
        assert found["better_than_chance"] == mask["better_than_chance"]
    assert result["scores"]["thresholded"] == pytest.approx(wanted["scores"]["thresholded"], abs=TOLERANCE)
    assert result["passes"]["weight_gradient"] == 0
    (artefact,) = result["artefacts"]
    got = np.load(io.BytesIO(service.server.http.get(artefact["href"]).content))
    assert set(got.files) == set(arrays)
    for name in (name for name in got.files if name.startswith("gradcam")):
        scale = max(float(arrays[name].max()), 1e-9)
        np.testing.assert_allclose(got[name] / scale, arrays[name] / scale, atol=TOLERANCE)


@every_model
def test_a_mask_in_slices_is_the_mask(service: Service, engine: Engine, model: str) -> None:
    frames = golden_frames(engine.load(model).record.clip)
    options = MaskOptions(preset="paper", steps=6) if service.gradients else MaskOptions(preset="exhaustive")
    whole = engine.learn(model, frames, 1, "reverse", options, None, max_steps=25, budget_s=60)
    while not whole["done"]:
        whole = engine.learn(model, frames, 1, "reverse", options, whole["state"], max_steps=25, budget_s=60)
    facts: dict[str, Any] = {"state": None, "done": False}
    slices = 0
    while not facts["done"]:
        facts = service.client().learn(model, frames, 1, "reverse", options, facts["state"], max_steps=3, budget_s=5)
        slices += 1
    assert slices >= 3
    assert facts["learned"]["values"] == pytest.approx(whole["learned"]["values"], abs=TOLERANCE)
    assert facts["learned"]["passes"] == whole["learned"]["passes"]


def test_many_callers_at_once_each_get_their_own_answer(service: Service, engine: Engine) -> None:
    spec = engine.load(MODEL).record.clip
    clips = [golden_frames(spec, seed) for seed in range(12)]
    with ThreadPoolExecutor(len(clips)) as pool:
        found = list(pool.map(lambda frames: service.client().look(MODEL, frames, target=None, gradcam=GradCamOptions()), clips))
    for frames, (arrays, facts) in zip(clips, found, strict=True):
        wanted, wanted_facts = engine.look(MODEL, frames, target=None, gradcam=GradCamOptions())
        assert facts["target"] == wanted_facts["target"]
        np.testing.assert_allclose(arrays["scores"], wanted["scores"], atol=1e-4)


@pytest.mark.parametrize(("body", "status", "code"), [(b"no video", 415, "unrecognised"), (None, 422, "undecodable")])
def test_a_bad_clip(service: Service, clip: Path, tmp_path: Path, expected: Expected, body: bytes | None, status: int, code: str) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(clip.read_bytes()[:600] if body is None else body)
    answer = service.predict(bad)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    same_prediction(service, clip, expected)


def test_an_unknown_model(service: Service, clip: Path, engine: Engine, expected: Expected) -> None:
    answer = service.predict(clip, model="nobody")
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown-model")
    frames = golden_frames(engine.load(MODEL).record.clip)
    with pytest.raises(UnknownModelError):
        service.client().look("nobody", frames, target=None, gradcam=None)
    same_prediction(service, clip, expected)


@every_model
def test_other_weights_than_asked_for_never_answer(service: Service, engine: Engine, model: str) -> None:
    frames = golden_frames(engine.load(model).record.clip)
    with pytest.raises(WeightsError) as caught:
        service.client(weights="ab" * 32).look(model, frames, target=None, gradcam=None)
    assert caught.value.code == "weights-changed"


@pytest.mark.parametrize("change", [{"target": 99}, {"gradcam": {"layers": ["nowhere"]}}, {"extra": 1}])
@every_model
def test_a_wrong_call_is_refused_and_nobody_else_pays(service: Service, engine: Engine, model: str, change: dict[str, Any]) -> None:
    frames = golden_frames(engine.load(model).record.clip)
    call = Call("look", model, frames, {"target": None, "gradcam": None, **change})
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(service.client().look, model, frames, target=None, gradcam=None) for _ in range(3)]
        bad = pool.submit(send, service, call)
        with pytest.raises(OptionsError):
            bad.result(GENEROUS_S)
        wanted = engine.look(model, frames, target=None, gradcam=None)[0]["scores"]
        for one in good:
            np.testing.assert_allclose(one.result(GENEROUS_S)[0]["scores"], wanted, atol=1e-4)


def send(service: Service, call: Call) -> Any:
    return unpack_answer(call.id, service.transport.send(call, call.pack(), GENEROUS_S))


def test_a_timeout_is_told_in_time_and_nothing_is_lost(service: Service, clip: Path, engine: Engine, expected: Expected) -> None:
    frames = golden_frames(engine.load(MODEL).record.clip)
    service.wait_ready()
    with stopped(service.computing()):
        started = time.monotonic()
        with pytest.raises((DeadlineExceededError, EngineCrashedError)):  # Triton takes a process that stands still for a second for dead
            service.client(timeout_s=1.0).look(MODEL, frames, target=None, gradcam=None)
        assert time.monotonic() - started < 10
        answer = service.predict(clip)
        told = (answer.status_code, answer.json().get("code"))
        refusals = ((504, "deadline-exceeded"), (503, "engine-crashed"), (503, "engine-unavailable"))
        repaired = service.engine.startswith("triton") and told == (200, None)  # with another process by then
        assert repaired or told in refusals, answer.text
        assert time.monotonic() - started < 10 + 3 * PREDICT_TIMEOUT_S
    same_prediction_again(service, clip, expected)


def test_a_cancelled_job_asks_nothing_more(service: Service, clip: Path, expected: Expected) -> None:
    if not service.gradients:
        job_id = _held_job(service, clip)
    else:
        job_id = service.server.submit(clip, mask={"preset": "paper", "steps": 1000}, **LONG)
        service.server.wait(job_id, lambda job: (job["progress"] or {}).get("phase") == "freeze" and job["progress"]["done"] > 10)
    assert service.server.http.delete(f"/v1/explanations/{job_id}").status_code == 204
    assert service.server.http.get(f"/v1/explanations/{job_id}").status_code in (404, 410)
    time.sleep(1.0)
    before = spent(service)
    time.sleep(1.0)
    assert spent(service) == before
    same_prediction(service, clip, expected)


def _held_job(service: Service, clip: Path) -> str:
    """Return a running job whose engine does not get on with it; it may once this returns."""
    service.wait_ready()
    with stopped(service.computing()):
        job_id: str = service.server.submit(clip, mask={"preset": "exhaustive"}, **LONG)
        service.server.wait(job_id, lambda job: job["status"] == "running")
    return job_id


def spent(service: Service) -> int:
    return sum(entry["passes"] for entry in service.transport.passes() if entry["purpose"] in ("freeze", "scores", "chance"))


@every_model
def test_an_engine_killed_in_mid_job(service: Service, clip: Path, expected: Expected, model: str) -> None:
    service.wait_ready()
    pid = service.computing(model)
    with stopped(pid):
        job_id = service.server.submit(clip, model=model, mask={"preset": service.preset}, **LONG)
        service.server.wait(job_id, lambda job: job["status"] == "running")
        time.sleep(0.5)  # so that the engine holds its first call
        os.kill(pid, signal.SIGKILL)
    job = service.server.wait(job_id, patience_s=GENEROUS_S)
    assert job["status"] == "succeeded", job
    assert job["result"]["masks"]["freeze"]["values"] == pytest.approx(
        expected[model][service.preset][0]["masks"]["freeze"]["values"], abs=TOLERANCE
    )
    same_prediction(service, clip, expected, model)
    assert service.computing(model) != pid


def test_predictions_while_the_engine_is_killed(service: Service, clip: Path, expected: Expected) -> None:
    service.wait_ready()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(service.predict, clip) for _ in range(12)]
        time.sleep(0.15)
        with contextlib.suppress(ProcessLookupError):
            os.kill(service.computing(), signal.SIGKILL)
        answers = [one.result(GENEROUS_S) for one in waiting]
    for answer in answers:
        assert answer.status_code in (200, 503, 504), answer.text
        if answer.status_code == 200:
            assert scores_of(answer.json()) == pytest.approx(scores_of(expected[MODEL]["default"][0]), abs=1e-4)
        else:
            assert answer.json()["code"] in ("engine-unavailable", "engine-crashed", "overloaded", "circuit-open", "deadline-exceeded")
    same_prediction_again(service, clip, expected)


class Garbling:
    """The transport of an engine whose answers are spoilt on the way."""

    def __init__(self, service: Service, spoil: str) -> None:
        self._transport = service.transport
        self.name = service.transport.name
        self.spoil: str | None = spoil
        self._earlier = b""

    def send(self, call: Call, body: bytes, timeout_s: float) -> bytes:
        answer = self._transport.send(call, body, timeout_s)
        earlier, self._earlier = self._earlier, answer
        spoilt = {
            "cut": answer[: len(answer) // 2],
            "another": earlier,
            "html": b"<html>Bad Gateway</html>",
            "flipped": answer[:40] + bytes([answer[40] ^ 0x55]) + answer[41:],
        }
        return answer if self.spoil is None else spoilt[self.spoil]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.mark.parametrize("spoil", ["cut", "another", "html", "flipped"])
def test_garbage_is_never_handed_on(service: Service, engine: Engine, spoil: str) -> None:
    service.wait_ready()
    frames = golden_frames(engine.load(MODEL).record.clip)
    backend = Backend(Garbling(service, spoil))
    client: EngineClient = backend.engine(service.info())  # type: ignore[assignment]
    codes = []
    for _ in range(4):
        with pytest.raises(EngineUnavailableError) as caught:
            client.look(MODEL, frames, target=None, gradcam=GradCamOptions())
        codes.append(caught.value.code)
    assert codes[0] == "engine-garbage"
    assert codes[-1] == "circuit-open"  # each was tried twice, and five failures in a row are enough


def test_back_after_the_server_is_killed(service: Service, clip: Path, expected: Expected) -> None:
    service.wait_ready()
    pid = service.serving()
    os.kill(pid, signal.SIGKILL)
    answer = service.predict(clip)
    assert answer.status_code in (200, 503, 504), answer.text
    until(lambda: service.predict(clip).status_code == 200)
    service.wait_ready()
    for model in expected:
        same_prediction(service, clip, expected, model)
    assert service.serving() != pid
