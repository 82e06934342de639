"""The serving benchmark: its arithmetic by hand, its load generator on made-up work, and a few requests to a real local service."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import bench_serving
import pytest
import tiny_services
from markdown_table import Table
from samples import apart, clocked, columns, percentile, spread
from section_load import CONCURRENCY, Load, under_load
from tables import section


def test_percentiles_are_measured_values() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert [percentile(hundred, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([float(number) for number in range(300)], 99) == 296  # three of 300 are above it
    assert percentile([3.0, 1.0, 2.0], 50) == 2
    assert percentile([3.0, 1.0, 2.0], 99) == 3
    assert percentile([4.0], 1) == 4
    assert spread("hop", [0.002, 0.004, 0.003]) == {"hop_p50_ms": 3.0, "hop_p99_ms": 4.0}


def test_differences_are_told_of_percentiles_and_of_pairs() -> None:
    bare, hop = [0.010, 0.020, 0.030], [0.031, 0.022, 0.013]
    found = apart(hop, bare)
    assert found["more_p50_ms"] == pytest.approx(2)  # 22 - 20
    assert found["more_p99_ms"] == pytest.approx(1)  # 31 - 30
    assert found["paired_p50_ms"] == pytest.approx(2)  # of 21, 2, -17
    assert found["paired_p99_ms"] == pytest.approx(21)
    with pytest.raises(ValueError):
        apart(hop, bare[:2])
    assert columns([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_a_clock_hands_on_what_came_back() -> None:
    seconds, found = clocked(lambda: time.sleep(0.01) or "done")
    assert seconds >= 0.01
    assert found == "done"


def test_load_does_what_was_asked_and_as_much_at_a_time() -> None:
    lock = threading.Lock()
    inside = most = done = 0

    def work() -> None:
        nonlocal inside, most, done
        with lock:
            inside += 1
            done += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1

    seconds, each = under_load(work, 4, 24)
    assert (done, len(each), most) == (24, 24, 4)
    assert min(each) >= 0.02
    assert seconds >= 6 * 0.02  # four at a time
    row = Load(2.0, [0.1, 0.3, 0.2, 0.4], calls=12, batches=5).row()
    assert row == pytest.approx({"requests": 4, "per_second": 2.0, "latency_p50_ms": 200.0, "latency_p99_ms": 400.0, "calls_a_batch": 2.4})
    assert Load(1.0, [0.5]).row()["calls_a_batch"] is None


def test_a_failing_request_is_told() -> None:
    def fail() -> None:
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        under_load(fail, 3, 9)


def test_what_is_not_installed_is_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tiny_services, "find_spec", lambda name: None)
    monkeypatch.setenv("CHRONOLENS_TRITONSERVER", str(tmp_path / "nowhere"))
    assert tiny_services.unusable("local") is None
    assert tiny_services.unusable("onnx") == "onnx, onnxscript, onnxruntime not installed"
    assert tiny_services.unusable("triton-grpc") == "tritonclient not installed"
    monkeypatch.undo()
    monkeypatch.setenv("CHRONOLENS_TRITONSERVER", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tiny_services, "find_spec", lambda name: object())
    assert "tritonserver is not installed" in str(tiny_services.unusable("triton-http"))
    (row,) = bench_serving.engines_table([], {"triton-http": "no server"}).rows
    assert row == {"engine": "triton-http", "server": None, "start_s": None, "not_measured": "no server"}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("serving") / "found.json"
    bench_serving.main(["--engines", "local", "--quick", "--out", str(out)])
    document = json.loads(out.read_text())
    assert {"commit", "torch", "threads"} <= document["machine"].keys()
    found: dict[str, Any] = document["figures"]
    return found


def test_a_quick_run_fills_every_table(figures: dict[str, Any]) -> None:
    assert {name: len(found) for name, found in figures.items()} == {"engines": 1, "way": 3, "slices": 1, "load": 1}
    for found in figures.values():
        for entry in found:
            table = Table(**entry)
            assert table.rows
            assert table.notes
            assert len({line.count("|") for line in table.markdown().splitlines() if line.startswith("|")}) == 1
            numbers = [(name, value) for row in table.rows for name, value in row.items() if isinstance(value, int | float)]
            assert numbers
            assert all(value >= 0 for name, value in numbers if not name.startswith(("more", "paired")))
    (engine,) = figures["engines"][0]["rows"]
    assert engine["engine"] == "local"
    assert engine["server"].startswith("PyTorch ")
    assert engine["not_measured"] is None


def test_a_request_takes_longer_than_its_parts(figures: dict[str, Any]) -> None:
    (hop,), (whole,), (out, inside) = (found["rows"] for found in figures["way"])
    assert hop["requests"] == whole["requests"] == bench_serving.QUICK.rounds * bench_serving.QUICK.repeats
    for percent in (50, 99):
        assert hop[f"more_p{percent}_ms"] == pytest.approx(hop[f"hop_p{percent}_ms"] - hop[f"bare_p{percent}_ms"])
        assert 0 < hop[f"beside_own_p{percent}_ms"] < hop[f"hop_p{percent}_ms"]
        assert whole[f"total_p{percent}_ms"] > whole[f"decode_p{percent}_ms"] > 0
        assert whole[f"total_p{percent}_ms"] > whole[f"rest_p{percent}_ms"] > 0
        assert inside[f"more_p{percent}_ms"] == pytest.approx(whole[f"total_p{percent}_ms"] - hop[f"bare_p{percent}_ms"])
        assert inside[f"paired_p{percent}_ms"] > out[f"paired_p{percent}_ms"]
    (one,) = figures["slices"][0]["rows"]
    assert (one["preset"], one["slices"]) == ("default", hop["requests"])


def test_every_way_and_concurrency_has_its_row(figures: dict[str, Any]) -> None:
    rows = figures["load"][0]["rows"]
    ways = [(row["way"], row["concurrency"]) for row in rows]
    assert ways == [("bare", 1), *(("engine", number) for number in CONCURRENCY), *(("HTTP", number) for number in CONCURRENCY)]
    assert {row["requests"] for row in rows} == {bench_serving.QUICK.load_requests}
    assert rows[0]["calls_a_batch"] is None
    assert all(1 <= row["calls_a_batch"] <= 8 for row in rows[1:])
    for row in rows:  # half of the requests took the median or longer, and only so many were under way at a time
        assert row["per_second"] <= row["concurrency"] * 2000 / row["latency_p50_ms"]


def test_the_page_takes_sections_of_any_file() -> None:
    assert section("bench_masks.json", "gpu").startswith("### ")
