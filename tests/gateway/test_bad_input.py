"""Each bad input of the list gets its status and code as a problem, and the service then answers a good request as before.

Numbers in the ids are the lines of the list of bad inputs.
"""

from __future__ import annotations

import json
import socket
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

MODEL = "clstm-tiny"
BOUNDARY = "----b0undary"
POSTS = ["/v1/predictions", "/v1/explanations"]


def _check(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"} <= set(problem)
    assert problem["request_id"] == answer.headers["x-request-id"]
    for secret in (tempfile.gettempdir(), str(Path(__file__).resolve().parents[2]), "site-packages", "Traceback", "evil-name", "pydantic"):
        assert secret not in answer.text
    if status == 503:
        assert int(answer.headers["retry-after"]) == problem["retry_after"]
    return problem


def _options(server: Any, clip: Path, path: str, text: str | bytes) -> Any:
    return server.http.post(path, files={"clip": ("evil-name", clip.read_bytes()), "options": (None, text)})


def _part(name: str, content: str = "x", extra: str = "") -> str:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n{content}\r\n'


def _raw(server: Any, body: str | bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}", **headers: str) -> Any:
    return server.http.post("/v1/predictions", content=body, headers={"Content-Type": content_type, **headers})


# --- container and codec ------------------------------------------------------------------------------------------------


def _video(path: Path, codec: str, form: str, *, frames: int = 20, size: tuple[int, int] = (64, 48), rate: int = 10) -> None:
    with av.open(str(path), "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), number * 7 % 256, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _audio(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")


def _truncated(path: Path) -> None:
    _video(path, "libx264", "mp4")
    path.write_bytes(path.read_bytes()[:600])


CLIPS: list[tuple[str, Callable[[Path], Any], int, str]] = [
    ("59-empty", lambda path: path.write_bytes(b""), 422, "empty-file"),
    ("60-random", lambda path: path.write_bytes(bytes(range(256)) * 40), 415, "unrecognised"),
    ("60-text", lambda path: path.write_text("hello\n" * 100), 415, "unrecognised"),
    ("60-html", lambda path: path.write_text("<!doctype html><p>hello"), 415, "unrecognised"),
    ("60-zip", _zip, 415, "unrecognised"),
    ("61-png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200)), 415, "unrecognised"),
    ("62-m3u8", lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"), 415, "playlist"),
    ("63-ffconcat", lambda path: path.write_text("ffconcat version 1.0\nfile other.mp4\n"), 415, "playlist"),
    ("64-mpd", lambda path: path.write_text('<?xml version="1.0"?><MPD></MPD>'), 415, "playlist"),
    ("66-truncated", _truncated, 422, "undecodable"),
    ("70-audio", _audio, 422, "no-video-stream"),
    ("77-ffv1", lambda path: _video(path, "ffv1", "matroska"), 415, "unsupported-codec"),
    ("77-prores", lambda path: _video(path, "prores_ks", "mov"), 415, "unsupported-codec"),
    ("84-short", lambda path: _video(path, "libx264", "mp4", frames=1), 422, "too-short"),
    ("85-long", lambda path: _video(path, "libx264", "mp4", frames=140, rate=2), 422, "too-long"),
]


@pytest.mark.parametrize(("name", "make", "status", "code"), CLIPS, ids=[entry[0] for entry in CLIPS])
@pytest.mark.parametrize("path", POSTS, ids=["predict", "explain"])
def test_unusable_clip(server: Any, tmp_path: Path, name: str, make: Callable[[Path], Any], status: int, code: str, path: str) -> None:
    file = tmp_path / "clip.mp4"
    make(file)
    _check(server.post(path, file, {"model": MODEL}), status, code)


# --- options ------------------------------------------------------------------------------------------------------------

TEXTS: list[tuple[str, str | bytes, int, str, str | None]] = [
    ("94-not-json", "{model}", 400, "malformed-json", None),
    ("94-trailing", '{"model":"clstm-tiny"} x', 400, "malformed-json", None),
    ("94-bom", '{"model":"clstm-tiny"}'.encode("utf-8-sig"), 400, "malformed-json", None),
    ("94-utf16", '{"model":"clstm-tiny"}'.encode("utf-16"), 400, "malformed-json", None),
    ("94-latin", b'{"model":"\xff"}', 400, "malformed-json", None),
    ("94-duplicate", '{"model":"clstm-tiny","model":"other"}', 400, "malformed-json", None),
    ("94-list", '["clstm-tiny"]', 400, "malformed-json", None),
    ("95-depth-33", "[" * 33 + "]" * 33, 400, "malformed-json", None),
    ("95-depth-30000", "[" * 30000, 400, "malformed-json", None),
    ("97-nan", '{"model":"clstm-tiny","start_s":NaN}', 400, "malformed-json", None),
    ("97-infinity", '{"model":"clstm-tiny","start_s":-Infinity}', 400, "malformed-json", None),
    ("97-1e999", '{"model":"clstm-tiny","start_s":1e999}', 400, "malformed-json", None),
    ("97-digits", '{"model":"clstm-tiny","top_k":1' + "0" * 5000 + "}", 400, "malformed-json", None),
    ("98-surrogate", '{"model":"\\ud800"}', 422, "invalid-text", None),
    ("98-surrogate-key", '{"model":"clstm-tiny","\\udfff":1}', 422, "invalid-text", None),
    ("98-nul", '{"model":"a\\u0000"}', 422, "invalid-text", None),
    ("99-text-for-number", '{"model":"clstm-tiny","top_k":"3"}', 422, "invalid-option", "/top_k"),
    ("99-true-for-number", '{"model":"clstm-tiny","top_k":true}', 422, "invalid-option", "/top_k"),
    ("99-fraction", '{"model":"clstm-tiny","top_k":2.5}', 422, "invalid-option", "/top_k"),
    ("100-zero", '{"model":"clstm-tiny","top_k":0}', 422, "out-of-range", "/top_k"),
    ("101-model", '{"model":"other"}', 422, "unknown-model", "/model"),
    ("102-field", '{"model":"clstm-tiny","speed":1}', 422, "unknown-field", "/speed"),
    ("103-interval", '{"model":"clstm-tiny","start_s":2,"end_s":1}', 422, "invalid-option", ""),
    ("no-model", "{}", 422, "missing-field", "/model"),
]


@pytest.mark.parametrize(("name", "text", "status", "code", "pointer"), TEXTS, ids=[entry[0] for entry in TEXTS])
@pytest.mark.parametrize("path", POSTS, ids=["predict", "explain"])
def test_wrong_options(
    server: Any, clip: Path, name: str, text: str | bytes, status: int, code: str, pointer: str | None, path: str
) -> None:
    problem = _check(_options(server, clip, path, text), status, code)
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer


EXPLAIN: list[tuple[str, dict[str, Any], str, str]] = [
    ("100-steps-0", {"mask": {"steps": 0}}, "out-of-range", "/mask/steps"),
    ("100-steps-1001", {"mask": {"steps": 1001}}, "out-of-range", "/mask/steps"),
    ("100-l1", {"mask": {"l1": -0.1}}, "out-of-range", "/mask/l1"),
    ("100-rate", {"mask": {"learning_rate": 0}}, "out-of-range", "/mask/learning_rate"),
    ("100-threshold", {"mask": {"threshold": 1.1}}, "out-of-range", "/mask/threshold"),
    ("101-class-index", {"target": 4}, "unknown-class", "/target"),
    ("101-class-label", {"true_class": "sideways"}, "unknown-class", "/true_class"),
    ("101-class-negative", {"target": -1}, "out-of-range", "/target"),
    ("101-layer", {"gradcam": {"layers": ["default", "clstm.cell9"]}}, "unknown-layer", "/gradcam/layers/1"),
    ("101-method", {"methods": ["lime"]}, "invalid-choice", "/methods/0"),
    ("102-mask-field", {"mask": {"speed": 1}}, "unknown-field", "/mask/speed"),
    ("103-artefact", {"methods": ["gradcam"], "artefacts": ["freeze.mp4"]}, "invalid-option", ""),
    ("no-methods", {"methods": []}, "out-of-range", "/methods"),
    ("class-of-wrong-type", {"target": [1]}, "invalid-option", "/target"),
]


@pytest.mark.parametrize(("name", "options", "code", "pointer"), EXPLAIN, ids=[entry[0] for entry in EXPLAIN])
def test_wrong_explanation_options(server: Any, clip: Path, name: str, options: dict[str, Any], code: str, pointer: str) -> None:
    problem = _check(server.post("/v1/explanations", clip, {"model": MODEL, **options}), 422, code)
    assert [entry["pointer"] for entry in problem["errors"]] == [pointer]


def test_limits_and_names_are_told(server: Any, clip: Path) -> None:
    steps = server.post("/v1/explanations", clip, {"model": MODEL, "mask": {"steps": 1001}}).json()
    assert (steps["limit"], steps["observed"]) == (1000, 1001)
    assert "clstm-tiny" in server.post("/v1/explanations", clip, {"model": "other"}).json()["detail"]
    assert "clstm.cell1" in server.post("/v1/explanations", clip, {"model": MODEL, "gradcam": {"layers": ["clstm.cell9"]}}).json()["detail"]
    assert "down" in server.post("/v1/explanations", clip, {"model": MODEL, "target": "dawn"}).json()["detail"]


def test_options_are_looked_at_before_the_clip(server: Any, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("no video")
    _check(server.post("/v1/explanations", file, {"model": "other"}), 422, "unknown-model")


# --- form ---------------------------------------------------------------------------------------------------------------

END = f"--{BOUNDARY}--\r\n"
FORMS: list[tuple[str, str, int, str]] = [
    ("42-garbage", "garbage", 400, "malformed-multipart"),
    ("42-no-end", _part("clip"), 400, "malformed-multipart"),
    ("43-no-clip", _part("model", MODEL) + END, 422, "missing-part"),
    ("44-two-clips", _part("clip") + _part("clip") + END, 422, "duplicate-part"),
    ("45-many-parts", "".join(_part(f"clip{number}") for number in range(2000)) + END, 400, "too-many-parts"),
    ("unknown-part", _part("clip") + _part("video") + END, 422, "unknown-part"),
    ("46-long-field", _part("model", "x" * 70_000) + _part("clip") + END, 413, "too-large"),
    ("96-long-options", _part("options", " " * 70_000) + _part("clip") + END, 413, "too-large"),
    ("47-long-header", _part("clip", extra="; x=" + "y" * 9000) + END, 400, "malformed-multipart"),
    ("48-encoded", _part("clip").replace("\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1) + END, 400, "malformed-multipart"),
    ("48-nested", _part("clip").replace("\r\n\r\n", "\r\nContent-Type: multipart/mixed\r\n\r\n", 1) + END, 400, "malformed-multipart"),
    ("nameless", f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n{END}", 400, "malformed-multipart"),
    ("given-twice", _part("options", '{"model":"a"}') + _part("model", "a") + _part("clip") + END, 422, "conflicting-option"),
]


@pytest.mark.parametrize(("name", "body", "status", "code"), FORMS, ids=[entry[0] for entry in FORMS])
def test_wrong_form(server: Any, name: str, body: str, status: int, code: str) -> None:
    _check(_raw(server, body), status, code)


def test_41_wrong_boundary(server: Any) -> None:
    _check(_raw(server, "x", "multipart/form-data"), 400, "malformed-multipart")
    _check(_raw(server, "x", f"multipart/form-data; boundary={'b' * 71}"), 400, "malformed-multipart")


def test_49_other_media_type(server: Any) -> None:
    _check(_raw(server, "a=b&" * 1000, "application/x-www-form-urlencoded"), 415, "unsupported-media-type")
    _check(_raw(server, "{}", "application/json"), 415, "unsupported-media-type")


def test_21_compressed_body(server: Any) -> None:
    _check(_raw(server, "x", **{"Content-Encoding": "gzip"}), 415, "unsupported-encoding")


@pytest.mark.parametrize("name", ["../../etc/x", "a\u202eb.mp4", "<script>", "", "x" * 5000, ";rm -rf"])
def test_50_file_name_is_ignored(server: Any, clip: Path, name: str) -> None:
    answer = server.http.post("/v1/predictions", files={"clip": (name or None, clip.read_bytes())}, data={"model": MODEL})
    assert answer.status_code == 200, answer.text
    assert list((server.data_dir / "uploads").iterdir()) == []


def _talk(server: Any, text: bytes, *, finish: bool = True) -> bytes:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(text)
        if not finish:
            return b""
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_10_too_large_is_refused_before_the_body(server: Any) -> None:
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {2**31}\r\n"
    answer = _talk(server, (head + "Expect: 100-continue\r\n\r\n").encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too-large"' in answer


def test_11_too_large_midway(server: Any) -> None:
    head = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    start = b'--b\r\nContent-Disposition: form-data; name="clip"\r\n\r\n'
    piece = bytes(1 << 20)
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head + b"%x\r\n%s\r\n" % (len(start), start))
        for _ in range(70):
            try:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            except (ConnectionResetError, BrokenPipeError):
                break
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert list((server.data_dir / "uploads").iterdir()) == []


def test_12_cut_body_makes_no_job(server: Any) -> None:
    before = server.http.get("/v1/explanations").json()["jobs"]
    head = "POST /v1/explanations HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
    head += f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    _talk(server, (head + _part("clip")).encode(), finish=False)
    assert server.http.get("/v1/explanations").json()["jobs"] == before


# --- protocol -----------------------------------------------------------------------------------------------------------


def test_18_wrong_method_names_the_right_ones(server: Any) -> None:
    answer = server.http.put("/v1/explanations")
    _check(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, POST"
    _check(server.http.request("TRACE", "/healthz"), 405, "method-not-allowed")
    assert server.http.post("/v1/explanations/" + "0" * 32).headers["allow"] == "DELETE, GET"


@pytest.mark.parametrize(
    "path", ["/v1/x", "/v1/explanations/x", "/v1/explanations/" + "0" * 32, "/%2e%2e%2fetc", "/v1/models/%00", "/%c0%ae"]
)
def test_24_33_unknown_path_or_id(server: Any, path: str) -> None:
    _check(server.http.get(path), 404, "not-found")


def test_27_unknown_query_parameter(server: Any, clip: Path) -> None:
    _check(server.http.get("/v1/explanations?page=1"), 400, "unknown-parameter")
    _check(server.http.get("/v1/models?limit=1"), 400, "unknown-parameter")
    _check(server.http.get("/v1/explanations?limit=1&limit=2"), 400, "duplicate-parameter")
    _check(server.http.get("/v1/explanations?limit=0"), 422, "invalid-parameter")
    _check(server.http.get("/v1/explanations?status=lost"), 422, "invalid-parameter")
    _check(server.http.get("/v1/explanations?cursor=../x"), 400, "invalid-cursor")
    _check(server.post("/v1/explanations?model=x", clip, {"model": MODEL}), 400, "unknown-parameter")


def test_wrong_preference(server: Any, clip: Path) -> None:
    _check(server.post("/v1/explanations", clip, {"model": MODEL}, Prefer="wait=soon"), 400, "invalid-header")


def test_good_request_after_all_that(server: Any, clip: Path) -> None:
    first = server.post("/v1/predictions", clip, {"model": MODEL}).json()
    second = server.post("/v1/predictions", clip, {"model": MODEL}).json()
    assert json.dumps(first["predictions"]) == json.dumps(second["predictions"])
    assert server.http.get("/readyz").status_code == 200
    assert "Traceback" not in server.log.read_text()
