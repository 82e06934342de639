"""The roofline table: multiply-accumulates and bytes that can be checked with a pencil, published sums, and limits."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chronolens.models import build_model
from chronolens.models.precision import InBfloat16

CLSTM: dict[str, Any] = {"num_classes": 3, "frames": 4, "height": 8, "width": 8, "hidden": 2, "strides": (2,)}


@pytest.fixture(scope="module")
def roofline() -> Iterator[Any]:
    """The script as a module; scripts lie beside the packages and find each other through their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("roofline")


def built(name: str, **config: Any) -> nn.Module:
    """A network without numbers."""
    with torch.device("meta"):
        return build_model(name, **config).eval().requires_grad_(False)


def products(rows: list[Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """Calls and multiply-accumulates of the layers that multiply."""
    return {(row.module, row.operation): (row.calls, row.macs) for row in rows if row.macs}


def test_a_convolution_by_hand(roofline: Any) -> None:
    network = nn.Conv3d(2, 3, (1, 3, 3), stride=(1, 2, 2), device="meta")
    (row,) = roofline.count(network, torch.rand(1, 2, 4, 7, 7, device="meta"))
    assert row.operation == "convolution 3x2x1x3x3 on 1x2x4x7x7"
    assert row.macs == (3 * 4 * 3 * 3) * (2 * 3 * 3)  # positions of the output by taps
    assert (row.input_bytes, row.weight_bytes, row.output_bytes) == (4 * 2 * 4 * 7 * 7, 4 * (3 * 2 * 9 + 3), 4 * 3 * 4 * 3 * 3)
    assert row.bytes == 1568 + 228 + 432
    assert row.intensity == pytest.approx(2 * 1944 / 2228)


def test_half_the_bytes_in_bfloat16(roofline: Any) -> None:
    network = nn.Conv3d(2, 3, (1, 3, 3), stride=(1, 2, 2), device="meta", dtype=torch.bfloat16)
    (row,) = roofline.count(network, torch.rand(1, 2, 4, 7, 7, device="meta", dtype=torch.bfloat16))
    assert (row.macs, row.bytes) == (1944, 1114)


def test_groups_see_only_their_channels(roofline: Any) -> None:
    (row,) = roofline.count(nn.Conv3d(4, 4, 1, groups=2, bias=False, device="meta"), torch.rand(1, 4, 2, 3, 3, device="meta"))
    assert row.macs == (4 * 2 * 3 * 3) * 2


@pytest.mark.parametrize(("bias", "name"), [(True, "addmm"), (False, "mm")])
def test_a_linear_layer_by_hand(roofline: Any, bias: bool, name: str) -> None:
    (row,) = roofline.count(nn.Linear(10, 4, bias=bias, device="meta"), torch.rand(3, 10, device="meta"))
    assert (row.operation, row.macs) == (f"{name} 10x4 on 3x10", 3 * 10 * 4)
    assert (row.input_bytes, row.weight_bytes, row.output_bytes) == (4 * 30, 4 * (40 + 4 * bias), 4 * 12)


def test_what_multiplies_nothing_counts_bytes_and_views_count_nothing(roofline: Any) -> None:
    network = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(6, 2))
    relu, linear = roofline.count(network, torch.rand(5, 2, 3))
    assert (relu.module, relu.operation, relu.calls, relu.macs, relu.bytes) == ("1", "elementwise", 1, 0, 2 * 4 * 30)
    assert linear.module == "2"


def test_a_clstm_by_hand(roofline: Any) -> None:
    rows = roofline.count(built("clstm", **CLSTM), torch.rand(1, 3, 4, 8, 8, device="meta"))
    assert products(rows) == {
        ("clstm.cell0", "convolution 8x3x5x5 on 4x3x8x8"): (1, 4 * (8 * 4 * 4) * (3 * 25)),
        # the first of four steps has no state to convolve
        ("clstm.cell0", "convolution 8x2x5x5 on 1x2x4x4"): (3, 3 * (8 * 4 * 4) * (2 * 25)),
        ("endFC", "addmm 32x3 on 1x32"): (1, 4 * 2 * 2 * 2 * 3),
    }
    recurrent = next(row for row in rows if row.calls == 3)
    assert (recurrent.input_bytes, recurrent.weight_bytes, recurrent.output_bytes) == (3 * 4 * 32, 3 * 4 * 400, 3 * 4 * 128)


@pytest.mark.parametrize(("strides", "giga"), [((1, 1, 2), 65.7), ((2, 1, 1), 33.8)])
def test_the_i3d_of_the_authors_costs_what_is_known(roofline: Any, strides: tuple[int, int, int], giga: float) -> None:
    rows = roofline.count(built("i3d", temporal_strides=strides), torch.empty(1, 3, 16, 224, 224, device="meta"))
    assert sum(row.macs for row in rows) / 1e9 == pytest.approx(giga, abs=0.06)
    assert len(products(rows)) == 58  # 57 units and the classifier
    first = next(row for row in rows if row.macs)
    assert (first.module, first.macs) == ("Conv3d_1a_7x7.conv3d", 64 * (16 // strides[0]) * 112 * 112 * 3 * 7**3)


@pytest.mark.parametrize(("name", "config"), [("i3d", {"num_classes": 4}), ("clstm", CLSTM)])
def test_an_input_gradient_costs_the_forward_products_again(roofline: Any, name: str, config: dict[str, Any]) -> None:
    network, clip = built(name, **config), torch.rand(1, 3, 4, 8, 8, device="meta")
    alone, both = (sum(row.macs for row in roofline.count(network, clip, work)) for work in (roofline.forward, roofline.gradient))
    assert both == 2 * alone


def test_an_input_gradient_reads_no_activations(roofline: Any) -> None:
    network = nn.Conv3d(2, 3, 1, device="meta").requires_grad_(False)
    rows = roofline.count(network, torch.rand(1, 2, 4, 5, 5, device="meta"), roofline.gradient)
    (back,) = [row for row in rows if row.operation == "convolution_backward 3x2x1x1x1 on 1x3x4x5x5"]
    assert (back.module, back.input_bytes, back.weight_bytes, back.output_bytes) == ("model", 4 * 300, 4 * 6, 4 * 200)


def test_layers_have_the_same_names_on_paper_in_memory_and_in_bfloat16(roofline: Any) -> None:
    network, clip = build_model("clstm", **CLSTM).eval().requires_grad_(False), torch.rand(1, 3, 4, 8, 8)
    paper, memory, half = (
        roofline.count(*of) for of in ((built("clstm", **CLSTM), clip.to("meta")), (network, clip), (InBfloat16(network), clip))
    )
    assert [(row.module, row.operation, row.calls) for row in paper] == [(row.module, row.operation, row.calls) for row in memory]
    assert products(paper) == products(memory) == products(half)
    assert sum(row.bytes for row in half if row.macs) * 2 == sum(row.bytes for row in memory if row.macs)


def test_no_hook_stays_behind_even_when_a_module_raises(roofline: Any) -> None:
    network = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="shapes"):
        roofline.count(network, torch.rand(1, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_limit_is_the_longer_of_both_times(roofline: Any) -> None:
    machine = roofline.Ceilings(flops=100.0, bandwidth=10.0)
    heavy = roofline.Row("a", "mm", macs=500, input_bytes=20, weight_bytes=10, output_bytes=20)
    light = roofline.Row("b", "mm", macs=5, input_bytes=20, weight_bytes=10, output_bytes=20)
    assert (machine.limit(heavy), machine.limit(light)) == (10.0, 5.0)
    plain = roofline.Row("c", "elementwise", input_bytes=70)
    sums = roofline.total([heavy, light, plain], machine, 44.0)
    assert sums == {"macs": 505, "bytes": 170, "limit_s": 22.0, "limit_of_products_s": 15.0, "seconds": 44.0, "share": 0.5}


def test_ceilings_follow_from_the_work_and_the_best_time(roofline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 2.0, 4.0, 24.0, 8.0, 16.0, 3.0, 2.0, 4.0])
    monkeypatch.setattr(roofline, "seconds_of", lambda work: next(times))
    assert roofline.peak_flops("bfloat16", widths=(4, 6), rounds=3) == max(2 * 4**3 / 2.0, 2 * 6**3 / 8.0)
    assert roofline.peak_bandwidth(length=10, rounds=3) == 3 * 40 / 2.0


def run(roofline: Any, monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> list[dict[str, Any]]:
    """Figures of a run with ceilings given by hand."""
    given = ["--peak-flops", "1e12", "2e12", "--bandwidth", "1e10", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", ["roofline.py", *words, *given, "--out", str(out)])
    roofline.main()
    figures: list[dict[str, Any]] = json.loads(out.read_text())["figures"]
    return figures


def test_the_script_measures_layers_of_a_served_model(
    roofline: Any, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(tiny_store))
    figures = run(roofline, monkeypatch, tmp_path / "out.json", "--models", "tiny-clstm", "tiny-i3d", "--rounds", "1", "--top", "2")
    assert [(found["model"], found["dtype"]) for found in figures] == [
        (name, dtype) for name in ("tiny-clstm", "tiny-i3d") for dtype in ("float32", "bfloat16")
    ]
    for found in figures:
        peak, bandwidth = found["ceilings"]["flops"], found["ceilings"]["bandwidth"]
        assert peak == {"float32": 1e12, "bfloat16": 2e12}[found["dtype"]]
        for row in found["layers"]:
            terms = {"compute": 2 * row["macs"] / peak, "memory": row["bytes"] / bandwidth}
            assert row["limit_s"] == max(terms.values()) == terms[row["limited_by"]]
            assert row["share"] == pytest.approx(row["limit_s"] / row["seconds"])
        for sums in found["totals"].values():
            assert sums["share"] == pytest.approx(sums["limit_s"] / sums["seconds"])
        assert found["totals"]["forward"]["macs"] == sum(row["macs"] for row in found["layers"])
    tables = capsys.readouterr().out
    assert sum("**forward**" in line for line in tables.splitlines()) == 4
    assert sum(line.startswith("| ") for line in tables.splitlines()) == 4 * (1 + 2 + 2)  # heading, two layers, two sums


def test_without_rounds_a_machine_that_is_not_there_is_counted(
    roofline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*_: Any) -> Tensor:
        raise AssertionError("nothing is measured")

    monkeypatch.setattr(roofline, "seconds_of", forbidden)
    found = run(roofline, monkeypatch, tmp_path / "out.json", "--models", "i3d-224", "--rounds", "0", "--top", "1")[1]
    assert found["totals"]["forward"]["macs"] / 1e9 == pytest.approx(65.7, abs=0.06)
    assert {row["seconds"] for row in found["layers"]} == {None}
    assert "Conv3d_2c_3x3.conv3d | convolution 192x64x3x3x3 on 1x64x18x58x58 | 1 | 16.647 |" in capsys.readouterr().out


def test_each_number_format_has_its_peak(roofline: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["roofline.py", "--dtype", "float32", "--peak-flops", "1e12", "2e12"])
    with pytest.raises(SystemExit):
        roofline.main()
    assert "one number for each --dtype" in capsys.readouterr().err
