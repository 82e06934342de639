"""The parts of the gateway without its processes: storage, strict JSON, the error table, and an application with no engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from chronolens.errors import (
    ChronolensError,
    ClipTooLargeError,
    EngineUnavailableError,
    NonFiniteResultError,
    OptionsError,
    UnknownLayerError,
    UnsupportedClipError,
    UnusableClipError,
    WeightsError,
)
from chronolens_gateway.app import create_app
from chronolens_gateway.errors import problem_of, status_of
from chronolens_gateway.limits import Limits
from chronolens_gateway.metrics import EngineFigures
from chronolens_gateway.parameters import strict_json
from chronolens_gateway.settings import Settings
from chronolens_gateway.storage import JobRemovedError, JobStorage, is_job_id, new_job_id


@pytest.fixture
def storage(tmp_path: Path) -> JobStorage:
    made = JobStorage(tmp_path)
    made.prepare()
    return made


def test_job_ids_rise_and_are_safe_names() -> None:
    first = new_job_id()
    time.sleep(0.002)
    second = new_job_id()
    assert first < second
    assert is_job_id(first)
    assert first[12] == "7"  # version 7 of RFC 9562
    for text in ("", "../x", first.upper(), first + "\n", first[:-1], f"{first}0"):
        assert not is_job_id(text)


def test_storage_creates_lists_and_removes(storage: JobStorage) -> None:
    ids = [f"{number:032x}" for number in (1, 3, 2)]
    for job_id in ids:
        storage.create(job_id, {"number": job_id}, b"clip", {"seq": 1})
    assert list(storage.ids()) == [ids[1], ids[2], ids[0]]
    assert list(storage.ids(before=ids[1])) == [ids[2], ids[0]]
    assert storage.read(ids[0], "job.json") == {"number": ids[0]}
    assert storage.read_clip(ids[0]) == b"clip"
    storage.drop_clip(ids[0])
    with pytest.raises(JobRemovedError):
        storage.read_clip(ids[0])
    storage.remove(ids[0])
    assert not storage.exists(ids[0])
    assert storage.read(ids[0], "job.json") is None
    with pytest.raises(JobRemovedError):
        storage.write(ids[0], "progress.json", {})
    storage.remove(ids[0])  # a second time is no error


def test_sweep_removes_what_a_killed_gateway_left(storage: JobStorage, tmp_path: Path) -> None:
    (tmp_path / "uploads" / "x").mkdir()
    (tmp_path / "drafts" / "y").write_text("z")
    storage.sweep()
    assert list((tmp_path / "uploads").iterdir()) == list((tmp_path / "drafts").iterdir()) == []


def test_strict_json_counts_brackets_outside_strings_only() -> None:
    limits = Limits(json_depth=2)
    assert strict_json(b'{"a": "[[[[\\"[["}', limits) == {"a": '[[[["[['}
    assert strict_json(b'{"a": [1, -0.0, 2e3]}', limits) == {"a": [1, 0.0, 2000.0]}
    with pytest.raises(ChronolensError) as caught:
        strict_json(b'{"a": [[1]]}', limits)
    assert (caught.value.code, caught.value.limit) == ("malformed-json", 2)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ClipTooLargeError("x"), 413),
        (UnsupportedClipError("x"), 415),
        (UnusableClipError("x"), 422),
        (OptionsError("x"), 422),
        (UnknownLayerError("x"), 422),
        (NonFiniteResultError("x"), 422),
        (EngineUnavailableError("x"), 503),
        (WeightsError("x"), 503),
        (ChronolensError("x"), 500),
        (ValueError("x"), 500),
    ],
)
def test_error_table(error: Exception, status: int) -> None:
    assert status_of(error) == status
    problem = problem_of(error, instance="/v1/x", request_id="r")
    assert problem.status == status
    assert problem.type == f"urn:chronolens:problem:{problem.code}"
    assert (problem.retry_after is not None) == (status == 503)


def test_unexpected_errors_and_weights_show_nothing() -> None:
    for error in (ValueError("/secret/path"), WeightsError("/secret/path")):
        assert "secret" not in problem_of(error, instance="/", request_id="r").model_dump_json()


def _alone(data_dir: Path, talk: Callable[[FastAPI, httpx.AsyncClient], Awaitable[None]]) -> None:
    """Talk to an application whose engine and runner are not there."""

    async def run() -> None:
        app = create_app(Settings(data_dir=data_dir, embedded=False))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            await talk(app, client)

    asyncio.run(run())


def test_without_engine_the_service_is_alive_but_not_ready(tmp_path: Path, clip: Path) -> None:
    async def talk(_app: FastAPI, client: httpx.AsyncClient) -> None:
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["code"]) == (503, "not-ready")
        assert ready.json()["detail"] == "not ready: engine, runner"
        assert int(ready.headers["retry-after"]) == ready.json()["retry_after"]
        answer = await client.post("/v1/predictions", files={"clip": ("c", clip.read_bytes())}, data={"model": "x"})
        assert (answer.status_code, answer.json()["code"]) == (503, "engine-unavailable")
        assert 'chronolens_ready{part="engine"} 0.0' in (await client.get("/metrics")).text

    _alone(tmp_path, talk)


def test_unexpected_failure_is_a_problem_without_details(tmp_path: Path) -> None:
    def fail() -> Any:
        raise RuntimeError("secret of /some/path")

    async def talk(app: FastAPI, client: httpx.AsyncClient) -> None:
        app.state.service.backend.models = fail
        answer = await client.get("/v1/models")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text

    _alone(tmp_path, talk)


def test_database_away_is_503(tmp_path: Path) -> None:
    def fail(**_filters: Any) -> Any:
        raise OperationalError("SELECT secret", {}, Exception("no such file"))

    async def talk(app: FastAPI, client: httpx.AsyncClient) -> None:
        app.state.service.jobs._client.list_workflows = fail
        answer = await client.get(f"/v1/explanations/{'0' * 32}")
        assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
        assert "secret" not in answer.text

    _alone(tmp_path, talk)


def test_deep_data_folder_gets_a_short_socket(tmp_path: Path) -> None:
    deep = Settings(data_dir=tmp_path / ("d" * 60) / ("e" * 60))
    assert len(str(deep.socket)) < 100
    assert deep.socket != Settings(data_dir=tmp_path / ("d" * 60) / ("f" * 60)).socket
    assert Settings(data_dir=Path("/x")).socket == Path("/x/run/engine.sock")


def test_the_figures_of_an_engine_become_metrics() -> None:
    figures = EngineFigures()
    figures.passes = [{"model": "m", "purpose": "predict", "direction": "forward", "passes": 7}]
    figures.stats = {
        "restarts": 2,
        "queues": [
            {"model": "a", "lane": "mask", "calls": 3, "oldest_s": 1.5},
            {"model": "b", "lane": "mask", "calls": 1, "oldest_s": 4.0},
            {"model": "a", "lane": "predict", "calls": 2, "oldest_s": 0.25},
        ],
    }
    found = {(sample.name, *sample.labels.values()): sample.value for family in figures.collect() for sample in family.samples}
    assert found == {
        ("chronolens_passes_total", "m", "predict", "forward"): 7,
        ("chronolens_worker_restarts_total",): 2,
        **{("chronolens_engine_waiting", lane): calls for lane, calls in (("predict", 2), ("map", 0), ("mask", 4))},
        **{("chronolens_engine_waiting_seconds", lane): age for lane, age in (("predict", 0.25), ("map", 0.0), ("mask", 4.0))},
    }
