"""Predictions and jobs over HTTP, from request to artefacts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

CLIPS = Path(__file__).resolve().parents[2] / ".." / "shared" / "clips"
SAMPLED = [1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38]  # int(40 / 16 * (i + 0.5))


def _events(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_prediction(server: Any, clip: Path) -> None:
    answer = server.post("/v1/predictions", clip, {"model": "clstm-tiny", "top_k": 3})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [entry["frame"] for entry in body["clip"]["sampled"]] == SAMPLED
    assert body["clip"]["sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest()
    scores = [entry["score"] for entry in body["predictions"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert set(body["timing_s"]) == {"decode", "queue", "inference", "total"}
    assert "untrained" in body["warnings"]


def test_plain_form_fields(server: Any, clip: Path) -> None:
    fields = {"model": "clstm-tiny", "methods": "gradcam, freeze", "target": "2", "true_class": "up", "top_k": "1"}
    answer = server.http.post(
        "/v1/explanations", files={"clip": ("../../etc/x", clip.read_bytes())}, data=fields, headers={"Prefer": "wait=50"}
    )
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["status"] == "succeeded"
    assert job["result"]["target"] == {"class_index": 2, "label": "left", "why": "requested"}
    assert set(job["result"]["masks"]) == {"freeze"}
    assert len(job["result"]["predictions"]) == 1
    assert "reverse.mp4" not in [one["name"] for one in job["result"]["artefacts"]]


def test_new_job_is_accepted_with_its_place(server: Any, clip: Path) -> None:
    answer = server.post("/v1/explanations", clip, {"model": "clstm-tiny", "methods": ["gradcam"], "artefacts": []})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/explanations/{job['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert job["status"] in ("queued", "running")
    ended = server.wait(job["id"])
    assert ended["status"] == "succeeded"
    assert ended["attempts"] == 1
    assert ended["created_at"] <= ended["started_at"] <= ended["finished_at"]


def test_finished_job_has_the_whole_result(finished: dict[str, Any]) -> None:
    result = finished["result"]
    assert finished["progress"]["phase"] == "render"
    assert set(result["masks"]) == {"freeze", "reverse"}
    assert len(result["masks"]["freeze"]["values"]) == 16
    assert result["scores"]["original"] == pytest.approx(max(entry["score"] for entry in result["predictions"]), abs=1e-5)
    assert result["scores"]["true_class"] is not None
    assert result["timing_s"]["queue"] >= 0
    assert result["provenance"]["weights"] == result["weights"]
    assert {one["name"] for one in result["artefacts"]} == {
        "panel.mp4",
        "gradcam.mp4",
        "freeze.mp4",
        "reverse.mp4",
        "arrays.npz",
        "strip.png",
    }


def test_artefacts_with_ranges_and_etag(server: Any, finished: dict[str, Any]) -> None:
    for entry in finished["result"]["artefacts"]:
        whole = server.http.get(entry["href"])
        assert whole.status_code == 200
        assert len(whole.content) == entry["size_bytes"]
        assert hashlib.sha256(whole.content).hexdigest() == entry["sha256"]
        assert whole.headers["etag"] == f'"{entry["sha256"]}"'
        assert whole.headers["content-type"].split(";")[0] == entry["media_type"]
        assert whole.headers["x-content-type-options"] == "nosniff"
    href, content = entry["href"], whole.content
    part = server.http.get(href, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, content[5:10])
    assert part.headers["content-range"] == f"bytes 5-9/{len(content)}"
    assert server.http.get(href, headers={"Range": "bytes=-4"}).content == content[-4:]
    assert server.http.get(href, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    for strange in ("bytes=0-1,2-3,4-5,6-7,8-9,10-11", "bytes=9-5", "lines=1-2", "bytes=-"):
        answer = server.http.get(href, headers={"Range": strange})
        assert (answer.status_code, answer.content) == (200, content), strange
    behind = server.http.get(href, headers={"Range": f"bytes={len(content)}-"})
    assert (behind.status_code, behind.json()["code"]) == (416, "range-not-satisfiable")
    assert behind.headers["content-range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize("name", ["job.json", "..%2fjob.json", "%2e%2e%2f%2e%2e%2fjobs.sqlite", "heat-maps.safetensors", "%00", ""])
def test_only_listed_artefacts_are_served(server: Any, finished: dict[str, Any], name: str) -> None:
    answer = server.http.get(f"/v1/explanations/{finished['id']}/artefacts/{name}")
    assert answer.status_code == 404
    assert b"options" not in answer.content


def test_list_is_newest_first_with_cursor_and_filter(server: Any, finished: dict[str, Any], clip: Path) -> None:
    ids = [server.submit(clip, methods=["gradcam"], artefacts=[]) for _ in range(3)]
    for job_id in ids:
        server.wait(job_id)
    page = server.http.get("/v1/explanations", params={"limit": 2}).json()
    assert [job["id"] for job in page["jobs"]] == [ids[2], ids[1]]
    assert page["jobs"][0]["result"] is None
    following = server.http.get("/v1/explanations", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert following["jobs"][0]["id"] == ids[0]
    done = server.http.get("/v1/explanations", params={"status": "succeeded", "limit": 100}).json()
    assert finished["id"] in [job["id"] for job in done["jobs"]]
    assert server.http.get("/v1/explanations", params={"status": "queued"}).json() == {"jobs": [], "next_cursor": None}


def test_events_end_with_done_and_resume(server: Any, clip: Path) -> None:
    job_id = server.submit(clip, methods=["freeze"], artefacts=[], mask={"preset": "paper", "steps": 60})
    with server.http.stream("GET", f"/v1/explanations/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = _events("".join(stream.iter_text()))
    ids = [number for number, _, _ in events]
    assert ids == sorted(ids)
    assert {name for _, name, _ in events} == {"progress", "partial", "done"}
    assert events[-1][1:] == ("done", {"status": "succeeded", "href": f"/v1/explanations/{job_id}"})
    partial = next(data for _, name, data in events if name == "partial")
    assert (partial["phase"], len(partial["values"])) == ("freeze", 16)
    again = server.http.get(f"/v1/explanations/{job_id}/events", headers={"Last-Event-ID": str(ids[-1] - 1)})
    assert [(number, name) for number, name, _ in _events(again.text)] == [(ids[-1], "done")]
    assert server.http.get(f"/v1/explanations/{job_id}/events", headers={"Last-Event-ID": str(ids[-1])}).status_code == 204
    assert server.http.get(f"/v1/explanations/{job_id}/events", headers={"Last-Event-ID": "x"}).status_code == 400


def test_delete_cancels_and_removes(server: Any, clip: Path) -> None:
    running = server.submit(clip, methods=["freeze"], mask={"preset": "paper", "steps": 1000})
    server.wait(running, lambda job: job["status"] == "running" and (job["progress"] or {}).get("phase") == "freeze")
    queued = server.submit(clip, methods=["gradcam"])
    unfinished = server.http.get(f"/v1/explanations/{running}/artefacts/panel.mp4")
    assert (unfinished.status_code, unfinished.json()["code"]) == (409, "job-not-finished")
    for job_id in (queued, running):
        assert server.http.delete(f"/v1/explanations/{job_id}").status_code == 204
        gone = server.http.get(f"/v1/explanations/{job_id}")
        assert (gone.status_code, gone.json()["code"]) == (410, "gone")
        assert server.http.delete(f"/v1/explanations/{job_id}").status_code == 410
    assert server.wait(server.submit(clip, methods=["gradcam"], artefacts=[]))["status"] == "succeeded"
    assert not (server.data_dir / "jobs" / running).exists()
    assert list((server.data_dir / "uploads").iterdir()) == []
    listed = [job["id"] for job in server.http.get("/v1/explanations").json()["jobs"]]
    assert running not in listed
    assert queued not in listed


def test_clip_is_removed_when_the_job_has_ended(server: Any, finished: dict[str, Any]) -> None:
    folder = server.data_dir / "jobs" / finished["id"]
    assert (folder / "result.json").is_file()
    assert not (folder / "clip.safetensors").exists()


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv", "webm"])
def test_real_clip(server: Any, ending: str) -> None:
    path = min(CLIPS.rglob(f"*.{ending}"))
    answer = server.post("/v1/explanations", path, {"model": "clstm-tiny", "mask": {"steps": 2}}, Prefer="wait=50")
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["status"] == "succeeded", job["error"]
    assert len(job["result"]["artefacts"]) == 6
    times = [frame["timestamp_s"] for frame in job["result"]["clip"]["sampled"]]
    assert times == sorted(times)
