"""The engine behind a real tritonserver."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from chronolens.engine_client import EngineClient
from chronolens.engine_wire import Call, unpack_answer
from chronolens.errors import DeadlineExceededError, EngineUnavailableError, OptionsError, OverloadedError, UnknownModelError
from chronolens.export.manifest import read_manifest
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.video.prepare import prepare
from chronolens_gateway.backends.triton import Addresses, TritonTransport
from chronolens_gateway.backends.triton_wires import http_client

NAME = "tiny-clstm"
MASK = MaskOptions(preset="paper")  # two seconds of work


def addresses(folder):
    return json.loads((folder / "triton.json").read_text())


def asked(folder, path):
    with http_client(addresses(folder)["http"]) as client:
        return client.get(path).json()


def learn(client, frames, state=None, **limits):
    return client.learn(NAME, frames, 1, "freeze", MASK, state, **{"max_steps": 5, "budget_s": 60.0, **limits})


def test_is_described_as_triton(transport, engine):
    (info,) = EngineClient(transport).describe(NAME)
    assert info.backend == "triton"
    assert info == engine.describe(NAME).model_copy(update={"backend": "triton"})
    assert transport.sources() == [NAME]


def test_serving_leaves_the_artefact_as_it_was(run_folder, exports):
    folder = exports / NAME / "triton"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"manifest.json", *read_manifest(folder).files}


def test_look_equals_the_engine_in_process(transport, engine, frames):
    wanted = GradCamOptions()
    expected, facts = engine.look(NAME, frames, target=None, gradcam=wanted)
    found, said = EngineClient(transport).look(NAME, frames, target=None, gradcam=wanted)
    assert said["target"] == facts["target"]
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-3 * max(1.0, float(np.abs(expected[name]).max())))


def test_mask_slices_equal_the_engine_in_process(transport, engine, frames):
    client, ours, theirs = EngineClient(transport), None, None
    for _ in range(3):
        ours, theirs = learn(engine, frames, ours and ours["state"]), learn(client, frames, theirs and theirs["state"])
        np.testing.assert_allclose(theirs["values"], ours["values"], atol=1e-3)
    assert theirs["progress"] == ours["progress"]


def test_other_weights_are_refused(transport, frames):
    with pytest.raises(Exception, match="weights"):
        EngineClient(transport, weights="0" * 64).look(NAME, frames, target=None, gradcam=None)


def test_passes_are_read_from_the_metrics(transport, frames):
    def predictions():
        found = [one for one in transport.passes() if (one["model"], one["purpose"], one["direction"]) == (NAME, "predict", "forward")]
        return found[0]["passes"] if found else 0

    before = predictions()
    EngineClient(transport).look(NAME, frames, target=None, gradcam=None)
    assert predictions() == before + 1


def test_stock_client_gets_logits_and_heat_map(run_folder, engine, frames):
    loaded = engine.load(NAME)
    clips = np.concatenate([prepare(frames, loaded.record.clip), prepare(frames[::-1].copy(), loaded.record.clip)])
    inputs = [triton.InferInput("clip", list(clips.shape), "FP32"), triton.InferInput("target", [2, 1], "INT64")]
    inputs[0].set_data_from_numpy(clips)
    inputs[1].set_data_from_numpy(np.array([[-1], [2]], np.int64))
    with triton.InferenceServerClient(addresses(run_folder)["grpc"]) as client:
        answer = client.infer(NAME, inputs)
        best = client.infer(NAME, inputs, outputs=[triton.InferRequestedOutput("scores", class_count=1)]).as_numpy("scores")
        inputs[1].set_data_from_numpy(np.array([[-1], [4]], np.int64))
        with pytest.raises(triton.InferenceServerException, match="no such class"):
            client.infer(NAME, inputs)
    with torch.no_grad():
        expected = loaded.network(torch.from_numpy(clips)).numpy()
    np.testing.assert_allclose(answer.as_numpy("logits"), expected, atol=1e-4)
    assert answer.as_numpy("explained").tolist() == [[int(expected[0].argmax())], [2]]
    arrays, _ = engine.look(NAME, frames, target=None, gradcam=GradCamOptions())
    (heat_map,) = (array for name, array in arrays.items() if name.startswith("map/"))
    np.testing.assert_allclose(answer.as_numpy("heat_map")[0], heat_map, atol=1e-3 * float(heat_map.max()))
    assert best[0, 0].decode().split(":")[2] == loaded.record.classes[int(expected[0].argmax())]


def test_bad_call_is_refused_alone(transport, frames):
    good, bad = Call("look", NAME, frames, {"target": None, "gradcam": None}), Call("look", NAME, frames, {"target": None})
    with ThreadPoolExecutor(3) as threads:
        bodies = [(good, good.pack()), (bad, bad.pack()), (good, b"nonsense")]
        answers = list(threads.map(lambda one: transport.send(one[0], one[1], 20.0), bodies))
    assert unpack_answer(good.id, answers[0])[0]["scores"].shape == (4,)
    with pytest.raises(OptionsError):
        unpack_answer(bad.id, answers[1])
    with pytest.raises(OptionsError):
        unpack_answer("", answers[2])


def test_concurrent_calls_share_executions(run_folder, transport, frames):
    def counted():
        body = asked(run_folder, f"/v2/models/{NAME}-explain/stats")["model_stats"][0]
        return body["inference_count"], body["execution_count"]

    client, before = EngineClient(transport), counted()
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: client.look(NAME, frames, target=None, gradcam=None), range(36)))
    inferences, executions = (now - then for now, then in zip(counted(), before, strict=True))
    assert inferences >= 36
    assert executions < inferences * 0.7


def test_prediction_overtakes_mask_slices(transport, frames):
    client, ended = EngineClient(transport), []

    def mask(number):
        learn(client, frames, max_steps=25, budget_s=0.2)
        ended.append(number)

    with ThreadPoolExecutor(24) as threads:
        waiting = [threads.submit(mask, number) for number in range(24)]
        time.sleep(0.15)
        client.look(NAME, frames, target=None, gradcam=None)
        before = len(ended)
        for one in waiting:
            one.result()
    assert before <= 16  # those that were running and, at most, those with which it shared an execution


def test_unknown_model(transport, frames):
    with pytest.raises(UnknownModelError) as caught:
        EngineClient(transport).look("no-such-model", frames, target=None, gradcam=None)
    assert caught.value.allowed == [NAME]


def test_answer_that_comes_too_late(transport, frames):
    with pytest.raises(DeadlineExceededError):
        learn(EngineClient(transport, timeout_s=0.03), frames, max_steps=25, budget_s=1.0)


def test_full_queue(run_folder, transport, frames):
    """With a queue of one call, the third of three slices is refused."""
    config = asked(run_folder, f"/v2/models/{NAME}-explain/config")
    small = {**config, "dynamic_batching": {**config["dynamic_batching"], "default_queue_policy": {"max_queue_size": 1}}}
    errors = []

    def one(_):
        try:
            learn(EngineClient(transport), frames, max_steps=25, budget_s=0.5)
        except EngineUnavailableError as error:
            errors.append(error)

    with triton.InferenceServerClient(addresses(run_folder)["grpc"]) as control:
        control.load_model(f"{NAME}-explain", config=json.dumps(small))
        try:
            with ThreadPoolExecutor(6) as threads:
                list(threads.map(one, range(6)))
        finally:
            control.unload_model(f"{NAME}-explain")  # or the server would keep the other configuration
            control.load_model(f"{NAME}-explain")
    assert errors
    assert {type(error) for error in errors} == {OverloadedError}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_listens(protocol, frames, tmp_path):
    gone = Addresses("127.0.0.1:9", "127.0.0.1:9", "127.0.0.1:9")
    for where in (gone, tmp_path / "triton.json"):
        transport = TritonTransport(where, protocol)
        with pytest.raises(EngineUnavailableError):
            EngineClient(transport).look(NAME, frames, target=None, gradcam=None)
        with pytest.raises(EngineUnavailableError):
            transport.passes()
        assert not transport.healthy()
        transport.close()


def test_threads_may_share_a_transport(transport, frames):
    client, found = EngineClient(transport), []
    threads = [threading.Thread(target=lambda: found.append(client.look(NAME, frames, target=None, gradcam=None))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 8
