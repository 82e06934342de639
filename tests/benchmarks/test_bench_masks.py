"""The mask benchmark on tiny networks: the two loops against the product, and the shape and sense of every table."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_masks
import pytest
import rounds
import section_gpu
import section_gradcam
import torch
from authors_loop import authors_iterations, authors_start, perturbed, trainable_copy, whole_passes
from device_loop import DeviceLoop, central_starts, freeze_matrix_of_logits
from markdown_table import Table
from section_authors import authors_tables, both_masks
from section_gpu import gpu_tables, masks_table, throughput_table
from section_gradcam import gradcam_tables
from section_iteration import batch_tables, iteration_tables
from section_precision import precision_tables
from subjects import Subject, full_size, shipped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chronolens.data.synthetic import make_clip
from chronolens.engine import Engine
from chronolens.explain.objective import operator_matrix
from chronolens.explain.perturbation import apply, freeze_matrix
from chronolens.explain.protocol import Passes
from chronolens.explain.temporal_mask import MaskState, advance, begin, settings
from chronolens.explain.words import OPERATORS, Operator
from chronolens.models.weights import find_record, load_model, save_weights
from chronolens.video.prepare import prepare

NAMES = ("tiny-clstm", "tiny-i3d")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny networks, made to care: a fresh network's scores hardly change with the clip, let alone with a mask."""
    folder = tmp_path_factory.mktemp("caring")
    for name in NAMES:
        record = find_record(tiny_store, name)
        network = load_model(record, tiny_store)
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
        head = network.get_submodule("endFC" if record.architecture == "clstm" else "logits.conv3d")
        clips = [torch.from_numpy(prepare(make_clip("test", number).render(32, 32, 8), record.clip)) for number in range(8)]
        with torch.no_grad():
            head.get_parameter("bias").zero_()
            logits = network(torch.cat(clips))
            spread = (logits - logits.mean(dim=0)).std()
            head.get_parameter("weight").div_(spread)
            head.get_parameter("bias").copy_(-logits.mean(dim=0) / spread)
        save_weights(network, record, folder)
    return folder


@pytest.fixture(scope="module")
def engine(store: Path) -> Engine:
    return Engine(store, device="cpu")


@pytest.fixture(scope="module")
def subjects(engine: Engine) -> dict[str, Subject]:
    return {name: shipped(engine, name, 8) for name in NAMES}


def product(
    subject: Subject, operator: Operator, number: int, target: int, steps: int, *, rough: bool = False, init: str | None = None
) -> tuple[MaskState, list[float]]:
    """The preset ``authors`` cut to some steps; also the logits that it starts from."""
    rule = settings("authors", operator, steps=steps, init=init, seed=3)
    model = subject.rough if rough else subject.network
    state = begin(rule, 8)
    while state.phase == "start":
        state = advance(model, subject.clips[number], target, rule, state, max_steps=1)
    assert state.adam is not None
    start = list(state.adam.logits)
    while not state.done:
        state = advance(model, subject.clips[number], target, rule, state)
    return state, start


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", NAMES)
def test_the_authors_loop_goes_where_the_preset_goes(subjects: dict[str, Subject], name: str, operator: Operator, batch: int) -> None:
    subject = subjects[name]
    state, start = product(subject, operator, 0, 1, 5)
    model = trainable_copy(subject.network)
    logits, searched = authors_start(model, subject.clips[0], 1, operator, batch)
    assert logits == start
    assert 2 * batch < searched.forward <= 5 * batch
    values, history, passes = authors_iterations(model, subject.clips[0], 1, operator, steps=5, batch=batch)
    assert history == pytest.approx(state.history[:5], abs=1e-4)
    assert state.last is not None
    assert values == pytest.approx(state.last.values, abs=1e-4)
    assert passes == searched + Passes(5 * batch, 5 * batch, 5 * batch)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert any(bool(parameter.grad.abs().sum() > 0) for parameter in model.parameters() if parameter.grad is not None)
    assert not any(parameter.requires_grad for parameter in subject.network.parameters())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", NAMES)
def test_both_loops_follow_the_score(subjects: dict[str, Subject], name: str, operator: Operator) -> None:
    """From masks that are neither on nor off, where the score moves most."""
    subject = subjects[name]
    state, start = product(subject, operator, 0, 1, 8, init="random")
    assert state.last is not None
    assert max(state.history) - min(state.history) > 0.02
    values, history, _ = authors_iterations(trainable_copy(subject.network), subject.clips[0], 1, operator, 8, 1, start)
    assert history == pytest.approx(state.history[:8], abs=5e-4)  # the authors' masks are float32
    assert values == pytest.approx(state.last.values, abs=2e-3)
    starts = torch.tensor(start).expand(2, 1, 8)
    found = DeviceLoop(subject.network, subject.clips[0], [1], starts).run(8)
    row = OPERATORS.index(operator)
    assert found.history[row, 0].tolist() == pytest.approx([*state.history, state.last.total], abs=5e-4)  # a batch of two rounds otherwise
    assert found.values[row, 0].tolist() == pytest.approx(state.last.values, abs=2e-3)


def test_the_authors_loop_costs_what_was_counted() -> None:
    assert 2 * whole_passes(16) == 29_088 == 2 * 303 * 16 * 3
    assert whole_passes(16, 1, 10, 4) == 34


def test_a_given_start_costs_nothing(subjects: dict[str, Subject]) -> None:
    model = trainable_copy(subjects["tiny-clstm"].network)
    start = [-5.0, -5.0, 5.0, 5.0, 5.0, 5.0, -5.0, -5.0]
    values, history, passes = authors_iterations(model, subjects["tiny-clstm"].clips[0], 0, "freeze", 1, 2, start)
    assert passes == Passes(2, 2, 2)
    assert len(history) == 1
    moved = torch.logit(torch.tensor(values)) - torch.tensor(start)
    assert moved.abs().tolist() == pytest.approx([0.2] * 8, abs=1e-3)  # Adam's first step is its rate, whatever the gradient


def test_frame_by_frame_is_what_the_matrices_do() -> None:
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(1, 3, 16, 2, 2, generator=generator)
    published = torch.tensor([float(digit) for digit in "0001111100000110"])
    order = perturbed(torch.arange(1.0, 17).view(1, 1, 16, 1, 1), published, "reverse").flatten().tolist()
    assert order == [1, 2, 3, 8, 7, 6, 5, 4, 9, 10, 11, 12, 13, 15, 14, 16]
    for _ in range(5):
        mask = torch.rand(16, generator=generator) ** 3
        for operator in OPERATORS:
            expected = apply(operator_matrix(operator, mask[None]), clip)
            assert torch.allclose(perturbed(clip, mask, operator), expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_device_loop_goes_where_the_preset_goes(subjects: dict[str, Subject], name: str) -> None:
    subject, targets = subjects[name], [1, 3]
    clips = torch.cat(subject.clips[:2])
    starts, searched = central_starts(subject.network, clips, targets)
    loop = DeviceLoop(subject.network, clips, targets, starts)
    first, again = loop.run(6), loop.run(6)
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.history, again.history)
    assert first.values.shape == (2, 2, 8)
    assert first.history.shape == (2, 2, 7)
    spent = Passes()
    for row, operator in enumerate(OPERATORS):
        for column, target in enumerate(targets):
            state, start = product(subject, operator, column, target, 6)
            assert starts[row, column].tolist() == start
            assert state.last is not None
            assert first.history[row, column].tolist() == pytest.approx([*state.history, state.last.total], abs=1e-4)
            assert first.values[row, column].tolist() == pytest.approx(state.last.values, abs=1e-4)
            spent += state.passes - Passes(forward=7, input_gradient=6)
    assert searched == spent
    assert loop.run(2).history.tolist() == first.history[:, :, :3].tolist()


def test_the_device_loop_in_bfloat16(subjects: dict[str, Subject]) -> None:
    subject = subjects["tiny-clstm"]
    starts, _ = central_starts(subject.rough, subject.clips[0], [1])
    found = DeviceLoop(subject.rough, subject.clips[0], [1], starts).run(6)
    for row, operator in enumerate(OPERATORS):
        state, _ = product(subject, operator, 0, 1, 6, rough=True)
        assert found.history[row, 0].tolist() == pytest.approx([*state.history, state.last.total], abs=0.02)


class OnOneDevice(TorchDispatchMode):
    """Refuses operations on tensors of the CPU, numbers in tensors included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        strangers = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor) and not leaf.is_meta]
        assert not strangers, func
        return result


@pytest.mark.parametrize("name", NAMES)
def test_the_device_loop_stays_on_its_device(subjects: dict[str, Subject], name: str) -> None:
    model = copy.deepcopy(subjects[name].rough).to("meta")
    loop = DeviceLoop(model, torch.rand(2, 3, 8, 32, 32, device="meta"), [0, 1], torch.rand(2, 2, 8, device="meta"))
    with OnOneDevice():
        found = loop.run(2)
    assert found.values.shape == (2, 2, 8)
    assert found.history.shape == (2, 2, 3)


def host_reads(work: Callable[[], object]) -> set[str]:
    """The operations that hand a number, or a size that depends on numbers, to the host; a CUDA graph cannot be captured with them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    found = {event.name for event in profile.events()}
    assert len(found) > 5
    return found & {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::masked_select", "aten::equal"}


@pytest.mark.parametrize("name", NAMES)
def test_the_host_reads_nothing_on_the_way(subjects: dict[str, Subject], name: str) -> None:
    subject = subjects[name]
    starts, _ = central_starts(subject.rough, subject.clips[0], [1])
    loop = DeviceLoop(subject.rough, subject.clips[0], [1], starts)
    assert host_reads(lambda: loop.run(2)) == set()
    masks = torch.rand(1, 8, requires_grad=True)
    assert host_reads(lambda: torch.autograd.grad(freeze_matrix(masks).sum(), masks)) == {"aten::_local_scalar_dense"}


@pytest.mark.parametrize("size", [1.0, 5.0, 50.0])
def test_the_freeze_matrix_of_logits(size: float) -> None:
    logits = (torch.rand(3, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1) * size
    weights = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slopes = []
    for make in (freeze_matrix_of_logits, lambda z: freeze_matrix(torch.sigmoid(z))):
        moved = logits.clone().requires_grad_()
        matrix = make(moved)
        assert torch.allclose(matrix, freeze_matrix(torch.sigmoid(logits)), atol=1e-12)
        slopes.append(torch.autograd.grad((matrix * weights).sum(), moved)[0])
    assert torch.allclose(*slopes, atol=1e-12)


def test_the_device_loop_refuses_what_does_not_fit(subjects: dict[str, Subject]) -> None:
    subject = subjects["tiny-clstm"]
    clip = subject.clips[0]
    with pytest.raises(ValueError, match="do not fit"):
        DeviceLoop(subject.network, clip, [1], torch.zeros(2, 1, 7))
    with pytest.raises(ValueError, match="do not fit"):
        DeviceLoop(subject.network, clip, [1, 2], torch.zeros(2, 1, 8))
    with pytest.raises(ValueError, match="CUDA device"):
        DeviceLoop(subject.network, clip, [1], torch.zeros(2, 1, 8), graph=True)
    with pytest.raises(ValueError, match="steps"):
        DeviceLoop(subject.network, clip, [1], torch.zeros(2, 1, 8)).run(0)


def test_the_compiler_gets_the_network(subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    subject, asked = subjects["tiny-clstm"], []

    def compile_(model: nn.Module, *, dynamic: bool) -> nn.Module:
        asked.append((model, dynamic))
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    starts = torch.tensor([-5.0, -5.0, 5.0, 5.0, 5.0, 5.0, -5.0, -5.0]).expand(2, 1, 8)
    plain = DeviceLoop(subject.network, subject.clips[0], [1], starts).run(2)
    assert not asked
    compiled = DeviceLoop(subject.network, subject.clips[0], [1], starts, compiled=True).run(2)
    assert asked == [(subject.network, False)]
    assert torch.equal(plain.history, compiled.history)


def test_medians_of_rounds_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done = [0.0], []
    costs = {"a": iter([9.0, 1.0, 2.0, 6.0]), "b": iter([9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0])}
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock[0])

    def work(name: str) -> Callable[[], None]:
        def spend() -> None:
            clock[0] += next(costs[name])
            done.append(name)

        return spend

    assert rounds.take_turns({name: work(name) for name in costs}, 3, {"b": 2}) == {"a": 2.0, "b": 3.5}
    assert "".join(done) == "abb" * 4


def test_a_table_in_markdown() -> None:
    rows = [{"what_it_is": "x", "n": 29088, "s": 1234.5, "share": 0.12345, "on": True, "none": None}]
    lines = Table("Title", rows, ["A note."]).markdown().splitlines()
    assert lines[:5] == [
        "### Title",
        "",
        "| what it is | n | s | share | on | none |",
        "| --- | --- | --- | --- | --- | --- |",
        "| x | 29,088 | 1,234 | 0.123 | yes | - |",
    ]
    assert lines[-1] == "A note."


def one(tables: list[Table]) -> list[dict[str, Any]]:
    """The rows of the only table, each with the same columns."""
    (table,) = tables
    assert len({tuple(row) for row in table.rows}) == 1
    assert table.markdown().count("\n|") == len(table.rows) + 2
    json.dumps(table.to_json(), allow_nan=False)
    return table.rows


def test_iterations(subjects: dict[str, Subject]) -> None:
    rows = one(iteration_tables(list(subjects.values()), 1))
    assert [(row["model"], row["precision"]) for row in rows] == [(name, kind) for name in NAMES for kind in ("float32", "bfloat16")]
    for row in rows:
        assert row["clip"] == "8x32x32"
        assert row["freeze_/_forward"] == pytest.approx(row["freeze_s"] / row["forward_s"])
        assert row["reverse_/_forward"] == pytest.approx(row["reverse_s"] / row["forward_s"])


@pytest.mark.parametrize(("served", "precisions"), [("float32", ["float32"]), ("bfloat16", ["float32", "bfloat16"])])
def test_batches(subjects: dict[str, Subject], served: str, precisions: list[str]) -> None:
    rows = one(batch_tables([subjects["tiny-clstm"]], served, 1))
    kinds = ("forward", "forward + input gradient")
    assert [(row["precision"], row["pass"]) for row in rows] == [(precision, kind) for precision in precisions for kind in kinds]
    for row in rows:
        assert row["clips"] == 8
        assert row["batch_/_alone"] == pytest.approx(row["batch_s"] / row["alone_s"])


def test_grad_cam_here_and_elsewhere(subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def works(subject: Subject, target: int) -> Callable[[], object]:
        return lambda: asked.append((subject.name, target))

    def fails(subject: Subject, target: int) -> Callable[[], object]:
        raise RuntimeError("operator\n  does not exist")

    def lacks(subject: Subject, target: int) -> Callable[[], object]:
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")

    monkeypatch.setattr(section_gradcam, "OTHERS", {"works": works, "fails": fails, "lacks": lacks})
    rows = one(gradcam_tables(list(subjects.values()), 1))
    found = {(row["model"], row["what"]): row["passes"] for row in rows}
    assert found["tiny-clstm", "chronolens"] == "1 forward + 1 partial backward"
    assert found["tiny-i3d", "chronolens"] == "1 forward"
    for name in NAMES:
        assert found[name, "fails"] == "RuntimeError: operator does not exist"
        assert found[name, "lacks"] == "not installed: no module elsewhere"
        assert asked.count((name, subjects[name].target(0))) == 3  # tried once, warmed up, timed
    assert [row["seconds"] is None for row in rows] == [False, False, False, True, True] * 2
    assert all(row["/_forward"] == 1.0 for row in rows if row["what"] == "forward")


def test_the_authors_loop_against_ours(engine: Engine, subjects: dict[str, Subject]) -> None:
    subject = subjects["tiny-clstm"]
    (table,) = authors_tables(engine, [subject], 1)
    rows = {row["loop"]: row for row in one([table])}
    sixteen, alone = rows["authors' loop, batch 16"], rows["authors' loop, batch 1"]
    assert (sixteen["iteration_passes"], alone["iteration_passes"]) == (48, 3)
    searched = alone["both_masks_passes"] - 2 * 900
    assert 2 * 3 <= searched <= 2 * 5
    assert sixteen["both_masks_passes"] == 16 * alone["both_masks_passes"]
    assert sixteen["both_masks_s"] == pytest.approx(sixteen["iteration_s"] * (600 + searched / 3))
    ours = rows["preset authors, float32"]
    _, starts = central_starts(subject.network, subject.clips[0], [subject.target(0)])
    assert (ours["iteration_passes"], ours["both_masks_passes"]) == (2, 2 * 601 + starts.total)
    assert f"preset authors, {engine.precision}" in rows
    served = rows["preset default, as served"]
    assert served["both_masks_passes"] == both_masks(engine, subject.name, subject.frames[0], subject.target(0))
    assert [row["how"] for row in rows.values()] == ["extrapolated"] * (len(rows) - 1) + ["measured"]
    assert all(row["batch_16_/_this"] == pytest.approx(sixteen["both_masks_s"] / row["both_masks_s"]) for row in rows.values())
    assert "5 forwards" in table.notes[0]  # eight frames; with sixteen it is the 29,088 of the reference facts


def test_precisions(subjects: dict[str, Subject]) -> None:
    rows = one(precision_tables([subjects["tiny-clstm"]], 2))
    assert [row["operator"] for row in rows] == list(OPERATORS)
    for row in rows:
        assert row["clips"] == 2
        assert row["same_class"] in (0.0, 0.5, 1.0)
        assert 0 <= row["own_score_apart_largest"] < 0.1
        assert row["optimum_apart_largest"] >= abs(row["optimum_worse_by_mean"])
        assert row["optimum_apart_largest"] >= row["optimum_worse_by_largest"]
        assert row["frames_agree"] * 16 == pytest.approx(round(row["frames_agree"] * 16))


def test_without_a_gpu_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (table,) = gpu_tables(["tiny-clstm"], 1)
    assert table.rows == []
    assert table.notes == ["Not measured: PyTorch finds no CUDA device here."]


def test_what_the_gpu_would_do(subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subjects["tiny-clstm"]
    rows = one([throughput_table([subject], (1, 3, 16), 1, compiling=False)])
    assert [row["batch"] for row in rows] == [1, 3, 16]
    assert all(row["eager_clips_a_s"] > 0 and row["compiled_clips_a_s"] is None for row in rows)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic: broken)
    rows = one([throughput_table([subject], (1,), 1)])
    assert (rows[0]["compiled_clips_a_s"], rows[0]["compiler_failed"]) == (None, "RuntimeError: no compiler")
    monkeypatch.setattr(section_gpu, "failure", lambda work: work() and None)
    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic: model)
    rows = one([masks_table([subject], 3, 1)])
    assert [row["loop"] for row in rows] == ["published loop, eager", "published loop, compiled", "preset default, host decides"]
    assert [row["objectives_apart"] for row in rows] == [0.0, 0.0, None]
    _, searched = central_starts(subject.rough, subject.clips[0], [subject.target(0)])
    assert rows[0]["passes"] == searched.total + 2 * (2 * 3 + 1)
    assert all(row["seconds"] > 0 for row in rows)


def test_a_loop_that_fails_says_how(subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, model: nn.Module) -> None:
            self.model = model

        def __call__(self, clip: Tensor) -> Tensor:
            raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic: Broken(model))
    rows = one([masks_table([subjects["tiny-clstm"]], 2, 1)])
    assert [row["failed"] for row in rows] == [None, "RuntimeError: no compiler", None]
    assert rows[1]["seconds"] is None


def test_the_full_size_network() -> None:
    subject = full_size(torch.device("cpu"), 1)
    assert subject.size == "16x224x224"
    assert sum(parameter.numel() for parameter in subject.network.parameters()) == 12_465_614
    assert subject.network.config.temporal_strides == (1, 1, 2)
    assert not subject.network.training


def test_the_script(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(store))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out.json"
    bench_masks.main(f"--models tiny-clstm --rounds 1 --clips 1 --sections gradcam gpu --out {out}".split())
    written = json.loads(out.read_text())
    assert written["machine"]["threads"] == 1
    assert list(written["figures"]) == ["gradcam", "gpu"]
    (table,) = written["figures"]["gradcam"]
    assert [row["what"] for row in table["rows"]][:2] == ["forward", "chronolens"]
    printed = capsys.readouterr().out
    assert f"### {table['title']}" in printed
    assert "no CUDA device" in printed
