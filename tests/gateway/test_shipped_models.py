"""The shipped weights, the shipped sample, a real service: what a newcomer's first request gets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from tests.gateway.conftest import Server

from chronolens.client import Client, ServiceError
from chronolens.models.weights import read_records
from chronolens.store import default_store

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "sample.mp4"
REAL = ROOT / ".." / "shared" / "clips" / "ucf101"
LABEL = "Moving something and something away from each other"
MOTION_S = (0.66, 3.16)
"""When the two things of the sample move, from the generator's record of it."""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("shipped") / "data", default_store(), OMP_NUM_THREADS="2")
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def result(shipped: Server) -> dict[str, Any]:
    with Client(shipped.url) as client:
        return client.explain(SAMPLE, model="i3d-synthetic", true_class=LABEL, mask={"preset": "default", "steps": 6})


def test_the_sample_is_recognised_and_its_motion_matters(result: dict[str, Any]) -> None:
    assert result["predictions"][0]["label"] == LABEL
    scores = result["scores"]
    assert scores["original"] > 0.7
    assert scores["fully_frozen"] < 0.2  # nothing moves, so nothing moves apart
    assert scores["freeze"] < 0.3
    assert scores["true_class"] == pytest.approx(scores["original"])
    (first, *_), last = result["masks"]["freeze"]["segments"], result["masks"]["freeze"]["segments"][-1]
    overlap = min(last["end_s"], MOTION_S[1]) - max(first["start_s"], MOTION_S[0])
    assert overlap > 0.5 * (MOTION_S[1] - MOTION_S[0])
    assert any("synthetic" in warning for warning in result["warnings"])


def test_the_artefacts_are_what_the_result_says(shipped: Server, result: dict[str, Any], tmp_path: Path) -> None:
    with Client(shipped.url) as client:
        for artefact in result["artefacts"]:
            path = client.download(artefact, tmp_path)
            assert hashlib.sha256(path.read_bytes()).hexdigest() == artefact["sha256"]
    for name in ("panel.mp4", "gradcam.mp4", "freeze.mp4", "reverse.mp4"):
        with av.open(str(tmp_path / name)) as video:
            assert video.streams.video[0].codec_context.name == "h264"
            times = [float(frame.time) for frame in video.decode(video=0)]
        sampled = [entry["timestamp_s"] for entry in result["clip"]["sampled"]]
        assert times == pytest.approx([time - sampled[0] for time in sampled], abs=2e-3)


def test_all_models_are_served_with_their_figures(shipped: Server) -> None:
    with Client(shipped.url) as client:
        served = {info["name"]: info for info in client.models()}
    assert (
        set(served)
        == set(read_records(default_store()))
        == {
            "i3d-synthetic",
            "clstm-synthetic",
            "slowfast-synthetic",
            "tsm-synthetic",
        }
    )
    for info in served.values():
        assert info["metrics"]["f1"] >= 0.6
        assert info["state"] == "ready"
        assert any("synthetic" in warning for warning in info["warnings"])
    with httpx.Client(base_url=shipped.url) as http:
        alone = http.get("/v1/models/slowfast-synthetic").raise_for_status().json()
    assert alone == served["slowfast-synthetic"]
    assert alone["pathways"] == ["slow", "fast"]
    assert alone["default_layers"] == alone["stages"]["stage5"] == ["s5.pathway0_res1", "s5.pathway1_res1"]
    assert {layer for modules in alone["stages"].values() for layer in modules} <= set(alone["layers"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real clips are not beside this checkout")
def test_a_real_clip_is_explained(shipped: Server) -> None:
    clip = sorted(REAL.glob("*.avi"))[0]
    with Client(shipped.url) as client:
        found = client.explain(clip, model="clstm-synthetic", mask={"preset": "default", "steps": 2}, artefacts=["panel.mp4"])
    assert len(found["clip"]["sampled"]) == 16
    assert found["provenance"]["weights"] == found["weights"]


def test_refusals_reach_the_client_whole(shipped: Server, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video at all")
    with Client(shipped.url) as client, pytest.raises(ServiceError) as caught:
        client.predict(tmp_path / "clip.mp4", model="i3d-synthetic")
    assert (caught.value.code, caught.value.problem["status"]) == ("unrecognised", 415)
