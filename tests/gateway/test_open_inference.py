"""A stock Triton client gets predictions from the gateway; what is malformed is refused."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

MODEL = "clstm-tiny"


@pytest.fixture
def client(server: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as made:
        yield made


@pytest.fixture
def predicted(server: Any, clip: Path) -> dict[str, Any]:
    """What the gateway's own route says of the clip."""
    found: dict[str, Any] = server.post("/v1/predictions", clip, {"model": MODEL, "top_k": 4}).json()
    return found


def clip_input(data: bytes, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput("clip", [1], "BYTES")
    made.set_data_from_numpy(np.array([data], dtype=np.object_), binary_data=binary)
    return made


def test_the_client_finds_server_and_model_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "chronolens"
    known = client.get_model_metadata(MODEL)
    assert known["inputs"] == [{"name": "clip", "datatype": "BYTES", "shape": [1]}]
    assert [(one["name"], one["shape"]) for one in known["outputs"]] == [("scores", [1, 4]), ("class_index", [1, -1]), ("label", [1, -1])]


@pytest.mark.parametrize("binary", [True, False, None])
def test_a_stock_client_gets_the_prediction(
    client: triton.InferenceServerClient, clip: Path, predicted: dict[str, Any], binary: bool | None
) -> None:
    names = ["scores", "class_index", "label"]
    outputs = None if binary is None else [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    given = {"outputs": outputs, "request_id": "mine", "parameters": {"top_k": 2}, "model_version": "1"}
    answer = client.infer(MODEL, [clip_input(clip.read_bytes())], **given)
    best = predicted["predictions"][:2]
    assert answer.get_response()["id"] == "mine"
    assert answer.as_numpy("class_index").tolist() == [[entry["class_index"] for entry in best]]
    labels = [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label")[0]]
    assert labels == [entry["label"] for entry in best]
    for entry in predicted["predictions"]:
        assert answer.as_numpy("scores")[0, entry["class_index"]] == pytest.approx(entry["score"], abs=1e-6)


def test_only_the_outputs_asked_for_come_back(client: triton.InferenceServerClient, clip: Path) -> None:
    answer = client.infer(MODEL, [clip_input(clip.read_bytes())], outputs=[triton.InferRequestedOutput("scores")])
    assert [one["name"] for one in answer.get_response()["outputs"]] == ["scores"]
    assert answer.as_numpy("scores").shape == (1, 4)


def test_base64_in_plain_json_is_the_same(server: Any, clip: Path, predicted: dict[str, Any]) -> None:
    data = [base64.b64encode(clip.read_bytes()).decode()]
    given = {"name": "clip", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}, "data": data}
    answer = server.http.post(f"/v2/models/{MODEL}/infer", json={"inputs": [given]}).json()
    scores = next(one for one in answer["outputs"] if one["name"] == "scores")["data"]
    assert scores[predicted["predictions"][0]["class_index"]] == pytest.approx(predicted["predictions"][0]["score"], abs=1e-6)


def test_an_unknown_model_is_a_404_that_the_client_can_read(client: triton.InferenceServerClient, clip: Path) -> None:
    with pytest.raises(InferenceServerException, match="no model of that name") as caught:
        client.infer("nobody", [clip_input(clip.read_bytes())])
    assert caught.value.status() == "404"


@pytest.mark.parametrize(("body", "status", "code"), [(b"", 422, "empty-file"), (b"no video at all, just text", 415, "unrecognised")])
def test_a_bad_clip_is_refused_as_everywhere(
    server: Any, client: triton.InferenceServerClient, body: bytes, status: int, code: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, [clip_input(body)])
    assert caught.value.status() == str(status)
    problem = _infer(server, [_entry(parameters={"binary_data_size": len(body) + 4})], struct.pack("<I", len(body)) + body).json()
    assert (problem["status"], problem["code"], problem["error"]) == (status, code, problem["detail"])


def _entry(**changed: Any) -> dict[str, Any]:
    return {"name": "clip", "shape": [1], "datatype": "BYTES", **changed}


def _infer(server: Any, inputs: list[Any], tail: bytes = b"", **more: Any) -> httpx.Response:
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if tail else {}
    response: httpx.Response = server.http.post(f"/v2/models/{MODEL}/infer", content=head + tail, headers=headers)
    return response


BASE64: dict[str, Any] = {"parameters": {"content_type": "base64"}}
CASES: dict[str, tuple[list[Any], bytes, dict[str, Any], int, str]] = {
    "no input": ([], b"", {}, 422, "invalid-inference-request"),
    "two inputs": ([_entry(), _entry()], b"", {}, 422, "invalid-inference-request"),
    "another name": ([_entry(name="video")], b"", {}, 422, "invalid-inference-request"),
    "another type": ([_entry(datatype="UINT8")], b"", {}, 422, "invalid-inference-request"),
    "two clips": ([_entry(shape=[2])], b"", {}, 422, "invalid-inference-request"),
    "a negative shape": ([_entry(shape=[-1])], b"", {}, 422, "invalid-inference-request"),
    "no data": ([_entry()], b"", {}, 422, "invalid-inference-request"),
    "text as data": ([_entry(data=["abc"])], b"", {}, 422, "invalid-inference-request"),
    "no base64": ([_entry(data=["@@"], **BASE64)], b"", {}, 422, "invalid-inference-request"),
    "a number as data": ([_entry(data=[7], **BASE64)], b"", {}, 422, "invalid-inference-request"),
    "an unknown output": ([_entry()], b"", {"outputs": [{"name": "heat"}]}, 422, "invalid-inference-request"),
    "an unknown member": ([_entry()], b"", {"extra": 1}, 422, "invalid-inference-request"),
    "an unknown parameter": ([_entry(data=["AAAA"], **BASE64)], b"", {"parameters": {"k": 1}}, 422, "unknown-field"),
    "a model of its own": ([_entry(data=["AAAA"], **BASE64)], b"", {"parameters": {"model": "x"}}, 422, "unknown-field"),
    "top_k 0": ([_entry(data=["AAAA"], **BASE64)], b"", {"parameters": {"top_k": 0}}, 422, "out-of-range"),
    "a short tail": ([_entry(parameters={"binary_data_size": 9})], b"\x05\0\0\0ab", {}, 400, "malformed-body"),
    "a wrong size": ([_entry(parameters={"binary_data_size": 5})], b"\x02\0\0\0ab", {}, 400, "malformed-body"),
    "a lying length": ([_entry(parameters={"binary_data_size": 6})], b"\xff\0\0\0ab", {}, 400, "malformed-body"),
    "a tail nobody owns": ([_entry(data=["AAAA"], **BASE64)], b"ab", {}, 422, "invalid-inference-request"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_malformed_is_refused(server: Any, case: str) -> None:
    inputs, tail, more, status, code = CASES[case]
    problem = _infer(server, inputs, tail, **more)
    assert (problem.status_code, problem.json()["code"]) == (status, code), problem.text
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["error"] == problem.json()["detail"]


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "1e3", ""])
def test_a_strange_header_length_is_a_400(server: Any, length: str) -> None:
    answer = server.http.post(f"/v2/models/{MODEL}/infer", content=b"{}", headers={"Inference-Header-Content-Length": length})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-header")


def test_a_body_shorter_than_its_head_is_a_400(server: Any) -> None:
    answer = server.http.post(f"/v2/models/{MODEL}/infer", content=b"{}", headers={"Inference-Header-Content-Length": "10"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-body")


def test_json_is_strict_and_bodies_are_bounded(server: Any) -> None:
    url = f"/v2/models/{MODEL}/infer"
    for body in (b"", b"[]", b'{"inputs": NaN}', b'{"a": 1, "a": 2}', b"[" * 1000):
        answer = server.http.post(url, content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed-json"), body
    assert server.http.post(url, content=b"{}", headers={"Content-Encoding": "gzip"}).json()["code"] == "unsupported-encoding"
    limit = server.http.get("/v1/limits").json()["json_bytes"]
    answer = server.http.post(url, content=b'{"inputs": "' + b"x" * limit)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    assert not list((server.data_dir / "uploads").iterdir())
