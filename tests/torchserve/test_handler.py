"""The handler as TorchServe loads it: batches that mix everything, each request with its own options and its own error."""

import json
import logging
import zipfile

import numpy as np
import pytest

from chronolens import local
from chronolens.engine import Engine
from chronolens.engine_wire import Call, unpack_answer
from chronolens.errors import DeadlineExceededError, OptionsError, UnknownModelError, WeightsError
from chronolens.golden import golden_frames
from chronolens.model_server import raw_clip, torchserve
from chronolens.model_server.torchserve import METRICS
from chronolens.models.weights import find_record
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.schemas import ExplanationResult, PredictionResult

MODEL = "tiny-clstm"


@pytest.fixture(scope="module")
def engine(archive_store):
    return Engine(archive_store)


@pytest.fixture(scope="module")
def frames(archive_store):
    return golden_frames(find_record(archive_store, MODEL).clip, 3)


@pytest.fixture(scope="module")
def video(clip_file):
    return clip_file.read_bytes()


def packed(call):
    return {"parts": {"body": call.pack()}}


def raw(body, options=None, explain=False):
    parts = {"body": body} if options is None else {"clip": body, "options": json.dumps(options).encode()}
    return {"parts": parts, "explain": explain}


def learn_call(frames, operator, **changed):
    arguments = {"target": 1, "operator": operator, "mask": MaskOptions(steps=3).model_dump(mode="json"), "state": None}
    return Call("learn", MODEL, frames, {**arguments, "max_steps": 25, "budget_s": 0.2, "known": [], **changed})


def test_a_packed_call_is_answered_as_by_the_engine_itself(worker, engine, frames):
    call = Call("look", MODEL, frames, {"target": 2, "gradcam": GradCamOptions().model_dump(mode="json")})
    (said,) = worker.predict(packed(call))
    assert (said.status, said.media_type) == (200, "application/octet-stream")
    arrays, facts = unpack_answer(call.id, said.body)
    expected, _ = engine.look(MODEL, frames, target=2, gradcam=GradCamOptions())
    assert facts["target"] == 2
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(arrays[name], array, atol=1e-6)


def test_one_batch_of_everything(worker, engine, frames, clip_file, video):
    """Predictions, explanations, packed calls and bad requests side by side; each gets what it would get alone."""
    look = Call("look", MODEL, frames, {"target": None, "gradcam": None})
    learn = learn_call(frames, "freeze")
    late = Call("look", MODEL, frames, {"target": None, "gradcam": None}, expires_at=1.0)
    options = {"target": "closing", "methods": ["gradcam", "freeze"], "mask": {"steps": 4}}
    said = worker.predict(
        raw(video, {"top_k": 2}),
        packed(look),
        raw(video, options, explain=True),
        raw(b"no video at all"),
        packed(learn),
        raw(video, {"methods": ["reverse"], "target": 3, "mask": {"steps": 3}}, explain=True),
        packed(late),
        raw(video, {"target": 4}, explain=True),
    )
    assert [one.status for one in said] == [200, 200, 200, 415, 200, 200, 504, 422]
    predicted = PredictionResult.model_validate_json(said[0].body)
    assert (predicted.backend, len(predicted.predictions)) == ("torchserve", 2)
    alone = local.predict(clip_file, model=MODEL, engine=engine)
    assert [one.class_index for one in predicted.predictions] == [one.class_index for one in alone.predictions][:2]
    arrays, _ = unpack_answer(look.id, said[1].body)
    np.testing.assert_allclose(arrays["scores"], engine.look(MODEL, frames, target=None, gradcam=None)[0]["scores"], atol=1e-6)
    _, facts = unpack_answer(learn.id, said[4].body)
    assert facts["done"]
    assert len(facts["values"]) == len(frames)
    with pytest.raises(DeadlineExceededError):
        unpack_answer(late.id, said[6].body)
    first, second = (ExplanationResult.model_validate_json(said[place].body) for place in (2, 5))
    assert (first.target.label, sorted(first.masks), first.artefacts) == ("closing", ["freeze"], [])
    assert (second.target.class_index, sorted(second.masks), second.gradcam) == (3, ["reverse"], [])
    expected = local.explain(clip_file, model=MODEL, engine=engine, **options)
    heat, expected_heat = ([entry.mass for entry in one.gradcam[0].frames] for one in (first, expected))
    assert heat == pytest.approx(expected_heat, abs=1e-3)
    assert abs(first.masks["freeze"].objective.total - expected.masks["freeze"].objective.total) < 1e-3
    assert first.scores.freeze == pytest.approx(expected.scores.freeze, abs=1e-3)
    refused = [json.loads(said[place].body) for place in (3, 7)]
    assert [one["code"] for one in refused] == ["unrecognised", "unknown-class"]
    assert refused[0]["request_id"] == "request-3"
    assert refused[1]["errors"][0]["pointer"] == "/target"
    assert refused[1]["instance"] == f"/explanations/{MODEL}"
    assert [one.media_type for one in said if one.status in (415, 422)] == ["application/problem+json"] * 2


def test_explanations_of_one_batch_share_passes(worker, video, monkeypatch):
    """Two raw explanations take the steps of their masks together, not one after the other."""
    engine = worker.service._entry_point.__self__._worker._server.engine
    sizes, true = [], engine.learn_many
    monkeypatch.setattr(engine, "learn_many", lambda model, requests: sizes.append(len(requests)) or true(model, requests))
    options = {"methods": ["freeze"], "mask": {"steps": 4}}
    said = worker.predict(raw(video, options, explain=True), raw(video, {**options, "target": 1}, explain=True))
    assert [one.status for one in said] == [200, 200]
    assert max(sizes) == 2


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ({"body": b""}, 422, "empty-file"),
        ({"body": b"#EXTM3U\n"}, 415, "playlist"),
        ({"body": b"\x00\x00\x00\x18ftypmp42" + bytes(40)}, 422, "undecodable"),
        ({"options": b"{}"}, 422, "missing-part"),
        ({"clip": b"x", "other": b"y"}, 422, "unknown-part"),
        ({"clip": b"x", "options": b"{"}, 400, "malformed-json"),
        ({"clip": b"x", "options": b'{"top_k": 1, "top_k": 2}'}, 400, "malformed-json"),
        ({"clip": b"x", "options": b'{"start_s": NaN}'}, 400, "malformed-json"),
        ({"clip": b"x", "options": b'{"start_s": 1e999}'}, 400, "malformed-json"),
        ({"clip": b"x", "options": b"[" * 100 + b"]" * 100}, 400, "malformed-json"),
        ({"clip": b"x", "options": b'{"a": ' * 40 + b"1" + b"}" * 40}, 400, "malformed-json"),
        ({"clip": b"x", "options": b"\xff\xfe{}"}, 400, "malformed-json"),
        ({"clip": b"x", "options": b'{"model": "\\ud800"}'}, 422, "invalid-text"),
        ({"clip": b"x", "options": b" " * 70_000}, 413, "too-large"),
        ({"clip": b"x", "options": b'{"top_k": true}'}, 422, "invalid-option"),
        ({"clip": b"x", "options": b'{"top_k": 0}'}, 422, "out-of-range"),
        ({"clip": b"x", "options": b'{"topk": 1}'}, 422, "unknown-field"),
        ({"clip": b"x", "options": b'{"model": "other"}'}, 422, "unknown-model"),
    ],
)
def test_a_bad_request_gets_a_code_and_a_good_one_beside_it_its_answer(worker, video, parts, status, code):
    bad, good = worker.predict({"parts": parts}, raw(video))
    assert (bad.status, bad.media_type, json.loads(bad.body)["code"]) == (status, "application/problem+json", code)
    assert good.status == 200


@pytest.mark.parametrize(
    ("options", "code", "pointer"),
    [
        ({"artefacts": ["strip.png"]}, "method-unavailable", "/artefacts"),
        ({"gradcam": {"layers": ["nowhere"]}}, "unknown-layer", "/gradcam/layers/0"),
        ({"methods": ["lime"]}, "invalid-choice", "/methods/0"),
        ({"mask": {"steps": 1001}}, "out-of-range", "/mask/steps"),
    ],
)
def test_options_of_an_explanation_are_checked(worker, video, options, code, pointer):
    (said,) = worker.predict(raw(video, options, explain=True))
    body = json.loads(said.body)
    assert (said.status, body["code"], body["errors"][0]["pointer"]) == (422, code, pointer)


def test_a_part_named_explain_makes_no_explanation(worker, video):
    """TorchServe puts the names of parts among the headers."""
    (said,) = worker.predict({"parts": {"clip": video, "explain": b"True"}})
    assert json.loads(said.body)["code"] == "unknown-part"


def test_packed_refusals_can_be_rebuilt(worker, frames):
    calls = [
        Call("look", "other", frames, {"target": None, "gradcam": None}),
        learn_call(frames, "freeze", weights=None),
        Call("look", MODEL, frames, {"target": None, "gradcam": None}, weights="00"),
    ]
    said = worker.predict(*(packed(call) for call in calls), {"parts": {"body": b"\x02" + bytes(7) + b"{}"}})
    assert [one.status for one in said] == [422, 400, 503, 400]
    for call, one, kind in zip(calls, said, (UnknownModelError, OptionsError, WeightsError), strict=False):
        with pytest.raises(kind):
            unpack_answer(call.id, one.body)


def test_a_raw_explanation_ends_in_time(worker, frames, video, monkeypatch):
    monkeypatch.setattr(raw_clip, "LONGEST_S", 0.4)
    look = Call("look", MODEL, frames, {"target": None, "gradcam": None})
    options = {"mask": {"preset": "authors", "steps": 1000}}
    long, short = worker.predict(raw(video, options, explain=True), packed(look))
    assert (long.status, json.loads(long.body)["code"], short.status) == (504, "deadline-exceeded", 200)


def test_metrics_and_log_of_a_batch(worker, frames, caplog):
    call = Call("look", MODEL, frames, {"target": None, "gradcam": None})
    with caplog.at_level(logging.INFO):
        worker.predict(packed(call), raw(b"no video"))
    lines = [record.getMessage() for record in caplog.records]
    counted = [line.split("|#hostname")[0] for line in lines if line.startswith("[METRICS]chronolens")]
    assert f"[METRICS]chronolens_passes_total.Count:1|#model:{MODEL},purpose:predict,direction:forward|#type:COUNTER" in counted
    assert f"[METRICS]chronolens_calls_total.Count:1|#model:{MODEL},operation:predict,outcome:unrecognised|#type:COUNTER" in counted
    assert f"[METRICS]chronolens_batch_calls.Count:2|#model:{MODEL}|#type:HISTOGRAM" in counted
    (batch,) = [json.loads(line) for line in lines if line.startswith('{"event": "batch"')]
    assert [one["outcome"] for one in batch["calls"]] == ["ok", "unrecognised"]
    assert batch["process"] == "torchserve"


def test_every_metric_is_declared_with_its_labels(worker):
    declared = {name: tuple(metric.dimension_names) for kind in worker.metrics.cache.values() for name, metric in kind.items()}
    assert {name: declared[name] for name in METRICS} == METRICS


def test_a_model_that_has_changed_does_not_load(load_archive, archive_store, tmp_path):
    changed = tmp_path / "changed.mar"
    with zipfile.ZipFile(archive_store / "exports" / MODEL / "mar" / f"{MODEL}.mar") as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, b'{"seed": 1, "scores": [1, 0, 0, 0]}' if name == "golden.json" else old.read(name))
    with pytest.raises(WeightsError, match="golden clip") as caught:
        load_archive(MODEL, tmp_path / "unpacked", changed)
    assert caught.value.code == "golden-clip"


@pytest.mark.parametrize(("gpu", "there", "device"), [(None, True, "cpu"), (1, True, "cuda:1"), (0, False, "cpu")])
def test_a_worker_takes_the_gpu_that_torchserve_gave_it(monkeypatch, gpu, there, device):
    monkeypatch.setattr(torchserve.torch.cuda, "is_available", lambda: there)
    assert torchserve._device(gpu) == device
