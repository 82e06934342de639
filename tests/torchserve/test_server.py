"""One real TorchServe, started through the launcher."""

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from chronolens import local, pipeline
from chronolens.engine import Engine
from chronolens.engine_client import EngineClient
from chronolens.engine_wire import Call
from chronolens.errors import EngineCrashedError, EngineUnavailableError, OptionsError, UnknownClassError
from chronolens.golden import golden_frames
from chronolens.models.weights import find_record
from chronolens.options import ExplanationOptions, GradCamOptions
from chronolens.schemas import ExplanationResult, PredictionResult

BINARY = {"Content-Type": "application/octet-stream"}
MODEL = "tiny-clstm"


@pytest.fixture(scope="module")
def engine(archive_store):
    return Engine(archive_store)


@pytest.fixture(scope="module")
def client(server):
    return EngineClient(server.transport)


@pytest.fixture(scope="module")
def frames(archive_store):
    return golden_frames(find_record(archive_store, MODEL).clip, 3)


def descendants(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def workers(server):
    """Return the process ids of the workers, by model."""
    found = {}
    for pid in descendants(server.process.pid):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(part.endswith(b"model_service_worker.py") for part in command):
            records = (Path(os.readlink(f"/proc/{pid}/cwd")) / "weights.toml").read_text()
            found[re.match(r"\[([\w-]+)\]", records).group(1)] = pid
    return found


def test_a_clip_sent_straight_to_predictions(server, engine, clip_file):
    answer = server.post(f"/predictions/{MODEL}", content=clip_file.read_bytes(), headers=BINARY)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found = PredictionResult.model_validate_json(answer.content)
    expected = local.predict(clip_file, model=MODEL, engine=engine)
    assert [one.class_index for one in found.predictions] == [one.class_index for one in expected.predictions]
    assert found.clip == expected.clip


def test_a_form_sent_straight_to_explanations(server, engine, clip_file):
    options = {"target": "turning", "mask": {"steps": 4}}
    sent = {"files": {"clip": ("c", clip_file.read_bytes())}, "data": {"options": json.dumps(options)}}
    answer = server.post("/explanations/tiny-i3d", **sent)
    assert answer.status_code == 200, answer.text
    found = ExplanationResult.model_validate_json(answer.content)
    expected = local.explain(clip_file, model="tiny-i3d", engine=engine, **options)
    assert (found.target.label, found.backend, found.artefacts) == ("turning", "torchserve", [])
    assert found.passes == expected.passes
    for operator in ("freeze", "reverse"):
        np.testing.assert_allclose(found.masks[operator].values, expected.masks[operator].values, atol=1e-3)
    assert found.scores.freeze == pytest.approx(expected.scores.freeze, abs=1e-3)


def test_options_as_a_json_part_are_read_strictly(server, clip_file):
    clip = clip_file.read_bytes()
    good = {"clip": ("c", clip), "options": ("o", b'{"top_k": 1}', "application/json")}
    answer = server.post(f"/predictions/{MODEL}", files=good)
    assert len(answer.json()["predictions"]) == 1
    bad = {"clip": ("c", clip), "options": ("o", b'{"top_k": 1, "top_k": 2}', "application/json")}
    answer = server.post(f"/predictions/{MODEL}", files=bad)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-json")


def test_a_bad_clip_is_refused_as_by_the_gateway(server):
    answer = server.post(f"/explanations/{MODEL}", content=b"#EXTM3U\nhttp://example.com/a.ts\n", headers=BINARY)
    assert (answer.status_code, answer.headers["content-type"]) == (415, "application/problem+json")
    assert answer.json()["code"] == "playlist"


def test_large_bodies_are_taken_up_to_our_limit(server, clip_file):
    padded = clip_file.read_bytes() + bytes(20 * 1024 * 1024)
    assert server.post(f"/predictions/{MODEL}", content=padded, headers=BINARY).status_code == 200
    assert server.post(f"/predictions/{MODEL}", files={"clip": ("c", padded)}).status_code == 200
    assert server.post(f"/predictions/{MODEL}", content=bytes(66 * 1024 * 1024), headers=BINARY).status_code == 413


def test_the_engine_behind_the_adapter_answers_as_the_one_in_process(client, engine, clip, tmp_path):
    options = ExplanationOptions(model=MODEL, artefacts=[], mask={"steps": 6})
    (info,) = client.describe(MODEL)
    assert info.backend == "torchserve"
    found = pipeline.explain(client, clip, options, info, tmp_path)
    expected = pipeline.explain(engine, clip, options, engine.describe(MODEL), tmp_path)
    assert found.predictions == expected.predictions
    assert found.target == expected.target
    for one, other in zip(found.gradcam[0].frames, expected.gradcam[0].frames, strict=True):
        assert one.mass == pytest.approx(other.mass, abs=1e-3)
    for operator, mask in expected.masks.items():
        np.testing.assert_allclose(found.masks[operator].values, mask.values, atol=1e-3)
    assert found.drop.freeze == pytest.approx(expected.drop.freeze, abs=1e-3)


def test_an_error_of_the_engine_comes_back_as_itself(client, frames):
    with pytest.raises(UnknownClassError) as caught:
        client.look(MODEL, frames, target=99, gradcam=GradCamOptions())
    assert caught.value.code == "unknown-class"
    with pytest.raises(OptionsError):
        client.look("nobody", frames, target=0, gradcam=None)


def test_without_the_key_nothing_is_answered(server, clip_file):
    urls = server.facts("torchserve.json")
    for address in (f"{urls['inference']}/predictions/{MODEL}", f"{urls['inference']}/explanations/{MODEL}"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = httpx.post(address, content=clip_file.read_bytes(), headers={**BINARY, **headers})
            assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")
    assert httpx.get(f"{urls['management']}/models").status_code == 400


def test_no_model_can_be_brought_in(server):
    urls, keys = server.facts("torchserve.json"), server.facts("key_file.json")
    headers = {"Authorization": f"Bearer {keys['management']['key']}"}
    answer = httpx.post(f"{urls['management']}/models", params={"url": "http://127.0.0.1:1/x.mar"}, headers=headers)
    assert answer.status_code == 405
    served = httpx.get(f"{urls['management']}/models", headers=headers).json()["models"]
    assert {one["modelName"] for one in served} == {MODEL, "tiny-i3d"}
    assert httpx.delete(f"{urls['management']}/models/{MODEL}", headers=headers).status_code == 405


def test_every_port_is_bound_to_loopback(server):
    inodes = set()
    for pid in (server.process.pid, *descendants(server.process.pid)):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))
            inodes |= {found.group(1)} if found else set()
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].split(":")[0])
    assert len(listening) == 5
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_concurrent_requests_share_batches(server, frames, clip_file):
    """While one request keeps the worker busy, the next ones gather."""
    call = Call("look", MODEL, frames, {"target": None, "gradcam": None})
    with ThreadPoolExecutor(9) as pool:
        slow = pool.submit(server.post, f"/predictions/{MODEL}", content=clip_file.read_bytes(), headers=BINARY)
        time.sleep(0.1)
        others = [pool.submit(server.transport.send, call, call.pack(), 30.0) for _ in range(6)]
        assert slow.result().status_code == 200
        assert all(one.result() for one in others)
    batches = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith('{"event": "batch"')]
    assert max(len(batch["calls"]) for batch in batches if batch["model"] == MODEL) > 1


def test_metrics_in_prometheus_format(server, client, frames):
    client.look(MODEL, frames, target=None, gradcam=None)
    before = {(one["model"], one["purpose"], one["direction"]): one["passes"] for one in server.transport.passes()}
    client.look(MODEL, frames, target=None, gradcam=None)
    key = (MODEL, "predict", "forward")
    deadline = time.monotonic() + 5
    while (after := {(one["model"], one["purpose"], one["direction"]): one["passes"] for one in server.transport.passes()}) == before:
        assert time.monotonic() < deadline  # counted when the line has come over the worker's output
        time.sleep(0.05)
    assert after[key] == before[key] + 1
    assert after["tiny-i3d", "load", "forward"] == 1
    text = httpx.get(server.facts("torchserve.json")["metrics"] + "/metrics").text
    for name in ("chronolens_calls_total", "chronolens_call_seconds_bucket", "chronolens_batch_calls_sum", "ts_inference_requests_total"):
        assert f"\n{name}{{" in text


def test_log_lines_are_json(server):
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    facts = [json.loads(line) for line in lines]
    assert {"event", "level", "process", "timestamp"} <= set.intersection(*(set(one) for one in facts))
    assert {"ready", "batch"} <= {one["event"] for one in facts}
    assert not [line for line in lines if "[METRICS]" in line]


def test_a_worker_that_dies_is_told_at_once_and_comes_back(server, client, frames):
    call = Call("look", MODEL, frames, {"target": None, "gradcam": None})
    victim = workers(server)[MODEL]
    os.kill(victim, signal.SIGSTOP)  # so that it surely holds the call when it dies
    killed = threading.Timer(0.5, os.kill, (victim, signal.SIGKILL))
    killed.start()
    started = time.monotonic()
    with pytest.raises(EngineCrashedError):
        server.transport.send(call, call.pack(), 30.0)
    assert time.monotonic() - started < 3
    assert client.describe("tiny-i3d")  # the other model has a process of its own
    server.wait()
    assert workers(server)[MODEL] != victim
    assert client.look(MODEL, frames, target=None, gradcam=None)


def test_nothing_outlives_a_killed_server_and_a_new_one_is_found(server, client, frames):
    """Last of this file: what follows talks to another server in the same run folder."""
    pids = list(workers(server).values())
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGSTOP)  # as if it were busy: it cannot notice by itself that the server has gone
    server.process.kill()
    server.process.wait(10)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(EngineUnavailableError):
        client.describe(MODEL)
    assert not server.transport.healthy()
    server.start()
    assert client.look(MODEL, frames, target=None, gradcam=None)
