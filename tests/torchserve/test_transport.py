"""The adapter against answers of TorchServe that a real one gives too rarely: expired keys, full queues, dead workers."""

import json
import subprocess
import sys

import httpx
import pytest

from chronolens.engine_wire import Call, pack_answer
from chronolens.errors import (
    DeadlineExceededError,
    EngineCrashedError,
    EngineUnavailableError,
    OverloadedError,
    UnknownModelError,
)
from chronolens_gateway.backends.torchserve import TorchServeTransport

CALL = Call("look", "m", None, {"target": None, "gradcam": None})
ADDRESSES = {"inference": "http://127.0.0.1:1", "management": "http://127.0.0.1:2", "metrics": "http://127.0.0.1:3"}


def keys(inference):
    return json.dumps({"inference": {"key": inference}, "management": {"key": "m"}, "API": {"key": "api"}})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "torchserve.json").write_text(json.dumps(ADDRESSES))
    (tmp_path / "key_file.json").write_text(keys("first"))
    return tmp_path


def refusal(status, kind, message):
    return httpx.Response(status, json={"code": status, "type": kind, "message": message})


def transport(folder, answer):
    return TorchServeTransport(folder, ["m"], http=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(404, "ModelNotFoundException", "Model not found: m"), UnknownModelError),
        (refusal(500, "InternalServerException", "Worker died."), EngineCrashedError),
        (refusal(507, "InternalServerException", "Worker died."), EngineCrashedError),
        (refusal(507, "InternalServerException", "Out of resources"), EngineUnavailableError),
        (refusal(503, "ServiceUnavailableException", 'Model "m" has no worker to serve inference request.'), OverloadedError),
        (refusal(503, "InternalServerException", "Prediction failed"), EngineUnavailableError),
        (httpx.Response(413), EngineUnavailableError),
        (httpx.Response(200, content=b"[]"), EngineUnavailableError),
        (httpx.Response(200, content=b"x", headers={"content-type": "application/octet-stream"}), EngineUnavailableError),
        (httpx.ConnectError("refused"), EngineUnavailableError),
        (httpx.ReadTimeout("late"), DeadlineExceededError),
        (httpx.ReadError("reset"), EngineCrashedError),
        (httpx.RemoteProtocolError("closed"), EngineCrashedError),
    ],
)
def test_failures_of_the_server_get_an_error_of_ours(folder, answer, error):
    def respond(_request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(error) as caught:
        transport(folder, respond).send(CALL, CALL.pack(), 5.0)
    assert type(caught.value) is error
    assert "127.0.0.1" not in caught.value.detail


@pytest.mark.parametrize("status", [200, 422, 503])
def test_a_packed_answer_is_handed_on_whatever_its_status(folder, status):
    body = pack_answer(CALL.id, {}, {})
    answer = httpx.Response(status, content=body, headers={"content-type": "application/octet-stream"})
    assert transport(folder, lambda _request: answer).send(CALL, CALL.pack(), 5.0) == body


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (Call("describe", "m"), "/predictions/m"),
        (CALL, "/predictions/m"),
        (Call("look", "m", None, {"target": None, "gradcam": {}}), "/explanations/m"),
        (Call("learn", "m"), "/explanations/m"),
    ],
)
def test_predictions_and_explanations_go_their_ways(folder, call, path):
    asked = []

    def respond(request):
        asked.append((request.url.path, request.headers["authorization"], request.headers["content-type"]))
        return refusal(404, "ModelNotFoundException", "")

    with pytest.raises(UnknownModelError):
        transport(folder, respond).send(call, call.pack(), 5.0)
    assert asked == [(path, "Bearer first", "application/octet-stream")]


def test_an_expired_key_is_renewed_once_and_the_request_sent_again(folder):
    asked = []

    def respond(request):
        asked.append((request.url.port, request.headers["authorization"]))
        if request.url.path == "/token":
            (folder / "key_file.json").write_text(keys("second"))
            return httpx.Response(200, json={})
        if request.headers["authorization"] == "Bearer first":
            return refusal(400, "InvalidKeyException", "Token Authorization failed")
        return httpx.Response(200, content=pack_answer(CALL.id, {}, {}), headers={"content-type": "application/octet-stream"})

    assert transport(folder, respond).send(CALL, CALL.pack(), 5.0)
    assert asked == [(1, "Bearer first"), (2, "Bearer api"), (1, "Bearer second")]


def test_a_key_that_somebody_else_has_renewed_is_only_read_again(folder):
    asked = []

    def respond(request):
        asked.append(request.url.path)
        if request.headers["authorization"] == "Bearer first":
            (folder / "key_file.json").write_text(keys("second"))
            return refusal(400, "InvalidKeyException", "")
        return httpx.Response(200, content=pack_answer(CALL.id, {}, {}), headers={"content-type": "application/octet-stream"})

    transport(folder, respond).send(CALL, CALL.pack(), 5.0)
    assert "/token" not in asked


def test_keys_that_are_never_taken_end_in_an_error(folder):
    with pytest.raises(EngineUnavailableError, match="none of the keys"):
        transport(folder, lambda _request: refusal(400, "InvalidKeyException", "")).send(CALL, CALL.pack(), 5.0)


@pytest.mark.parametrize("content", [None, ""])
def test_before_the_server_has_started_it_is_unavailable(folder, content):
    (folder / "key_file.json").unlink() if content is None else (folder / "key_file.json").write_text(content)
    with pytest.raises(EngineUnavailableError, match="not started"):
        transport(folder, lambda _request: httpx.Response(200)).send(CALL, CALL.pack(), 5.0)


def test_passes_are_read_from_the_metrics(folder):
    text = (
        "# TYPE chronolens_passes_total counter\n"
        'chronolens_passes_total{model="m",purpose="predict",direction="forward",Hostname="h",} 3.0\n'
        "# TYPE other counter\nother 1.0\n"
    )
    found = transport(folder, lambda _request: httpx.Response(200, text=text)).passes()
    assert found == [{"model": "m", "purpose": "predict", "direction": "forward", "passes": 3}]


def test_the_models_are_those_announced_unless_they_are_named(folder):
    (folder / "torchserve.json").write_text(json.dumps({**ADDRESSES, "models": ["a", "b"]}))
    assert TorchServeTransport(folder).sources() == ["a", "b"]
    assert TorchServeTransport(folder, ["c"]).sources() == ["c"]


def test_the_adapter_and_the_launcher_never_import_torch():
    code = "import sys, chronolens_gateway.backends.torchserve, chronolens_gateway.servers.torchserve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
