"""Many masks at once, and the memory they need: the same as alone, whatever else travels in the batch."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chronolens.errors import OptionsError, UnknownClassError
from chronolens.explain import memory
from chronolens.explain.many import MOST_ROWS, Outcome, Task, learn_many
from chronolens.explain.mask_state import LearnedMask, MaskState, Objective
from chronolens.explain.presets import settings
from chronolens.explain.protocol import Passes, frozen
from chronolens.explain.temporal_mask import advance, begin, finished

OPERATORS = ("freeze", "reverse")
CPU_IS_FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."


def cuda_is_full() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_is_full() -> Exception:
    return RuntimeError(CPU_IS_FULL)


def state_of(model: Any, task: Task, rounds: int = 10_000) -> MaskState:
    """Learn one mask alone, at most some steps of it."""
    state = begin(task.options, task.clip.shape[2])
    for _ in range(rounds):
        if state.done:
            break
        state = advance(model, task.clip, task.target, task.options, state, max_steps=1)
    return state


def alone(model: Any, task: Task) -> LearnedMask:
    return finished(state_of(model, task), task.options)


def mask_of(outcome: Outcome) -> LearnedMask:
    assert outcome.error is None
    assert outcome.mask is not None
    return outcome.mask


def same(outcome: Outcome, expected: LearnedMask) -> None:
    """Compare all that is said of a mask; the batch it travelled in may have moved the last digits."""
    mask = mask_of(outcome)
    assert (mask.operator, mask.steps, mask.converged) == (expected.operator, expected.steps, expected.converged)
    assert mask.passes == expected.passes
    assert mask.objective.total == pytest.approx(expected.objective.total, abs=1e-6)
    assert mask.values == pytest.approx(expected.values, abs=1e-3)
    assert (mask.optimum is None) == (expected.optimum is None)


def chance_of(rng: torch.Generator, frames: int = 8) -> Tensor:
    return torch.rand(frames, generator=rng).reshape(1, 1, -1, 1, 1).repeat(1, 1, 1, 2, 2)


@pytest.fixture
def clips() -> list[Tensor]:
    """Four clips of eight frames, brightness in [0, 1]."""
    rng = torch.Generator().manual_seed(5)
    return [chance_of(rng) for _ in range(4)]


def wobble(brightness: Tensor) -> Tensor:
    """A logit of values and of steps, for any number of frames: high for most clips."""
    slope = torch.cos(2.0 * torch.arange(brightness.shape[1], dtype=brightness.dtype))
    return 1.0 + 3.0 * (brightness * slope).sum(dim=1) + 2.0 * (brightness[:, 1:] - brightness[:, :-1]).abs().sum(dim=1)


@pytest.fixture
def wobbly(score_model: Any) -> Callable[[], Any]:
    """Build networks that count the rows of their calls."""
    return lambda: score_model(wobble)


class Narrow(nn.Module):
    """A network that runs out of memory when a batch holds more than some rows, or a clip brighter than some limit."""

    default_layers = ("none",)

    def __init__(self, network: nn.Module, rows: int, error: Callable[[], BaseException], brightest: float = math.inf) -> None:
        super().__init__()
        self.network, self.rows, self.error, self.brightest = network, rows, error, brightest
        self.calls: list[int] = []
        self.kept: list[weakref.ref[Tensor]] = []
        self.held: list[int] = []  # activations of failed passes that still were there when a pass began

    @property
    def refused(self) -> list[int]:
        return [rows for rows in self.calls if rows > self.rows]

    def forward(self, clip: Tensor) -> Tensor:
        self.calls.append(len(clip))
        self.held.append(sum(kept() is not None for kept in self.kept))
        if len(clip) > self.rows or float(clip.detach().amax()) > self.brightest:
            activations = clip.detach().clone()
            self.kept.append(weakref.ref(activations))
            raise self.error()
        return self.network(clip)

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> None:
        return None


class Conv(nn.Module):
    """Two convolutions of four maps, two classes."""

    default_layers = ("two",)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1), nn.Linear(4, 2)
        self.maps: list[weakref.ref[Tensor]] = []
        self.trained: list[bool] = []

    def forward(self, clip: Tensor) -> Tensor:
        self.trained.append(self.training or any(parameter.requires_grad for parameter in self.parameters()))
        first = torch.relu(self.one(clip))
        self.maps.append(weakref.ref(first))
        return self.head(torch.sigmoid(self.two(first)).mean(dim=(2, 3, 4)))


def test_clips_classes_and_operators_as_alone(pencil: Any, clips: list[Tensor]) -> None:
    model = pencil([[6.0, -6.0], [-4.0, 5.0], [0.5, 0.0]], share=[0.3, -0.1, 0.4, 0.0, -0.6, 0.5, 0.7, -0.2])
    tasks = [
        Task(clip, target, settings("default", operator)) for clip, target, operator in itertools.product(clips[:3], range(3), OPERATORS)
    ]
    outcomes = learn_many(model, tasks)
    assert len(outcomes) == 18
    for task, outcome in zip(tasks, outcomes, strict=True):
        same(outcome, alone(model, task))
    totals = {round(mask_of(outcome).objective.total or math.nan, 4) for outcome in outcomes}
    assert len(totals) >= 12  # the tasks differ
    assert any(mask_of(outcome).steps for outcome in outcomes)


def test_all_presets_in_one_call(wobbly: Any, clips: list[Tensor]) -> None:
    few, chance = {"steps": 6}, {"steps": 4, "init": "random"}
    kinds = [("default", {}), ("exhaustive", {}), ("authors", few), ("paper", few), ("authors", chance), ("default", chance)]
    tasks = [
        Task(clip, target, settings(preset, operator, **more))
        for clip, target, operator, (preset, more) in itertools.product(clips[:2], (0, 1), OPERATORS, kinds)
    ]
    model = wobbly()
    outcomes = learn_many(model, tasks, rows=16)
    assert sum(model.calls) == sum(mask_of(outcome).passes.forward for outcome in outcomes)
    assert max(model.calls) == 16
    for task, outcome in zip(tasks, outcomes, strict=True):
        same(outcome, alone(wobbly(), task))
    optima = [mask_of(outcome).optimum for task, outcome in zip(tasks, outcomes, strict=True) if task.options.preset == "exhaustive"]
    assert [optimum.size for optimum in optima if optimum] == [29] * 8


def test_the_order_of_tasks_does_not_matter(wobbly: Any, clips: list[Tensor]) -> None:
    tasks = [Task(clip, 0, settings("default", operator)) for clip, operator in itertools.product(clips, OPERATORS)]
    for one, other in zip(learn_many(wobbly(), tasks), reversed(learn_many(wobbly(), tasks[::-1])), strict=True):
        same(one, mask_of(other))


def test_the_same_call_gives_the_same_bits(wobbly: Any, clips: list[Tensor]) -> None:
    tasks = [Task(clip, 0, settings("default", operator), restarts=2) for clip, operator in itertools.product(clips, OPERATORS)]
    assert learn_many(wobbly(), tasks, rows=16) == learn_many(wobbly(), tasks, rows=16)


@pytest.mark.parametrize(
    "rows",
    [1, 3, 4, 7, 8, 13, 1000],
)
def test_rows_of_a_pass(wobbly: Any, clips: list[Tensor], rows: int) -> None:
    model = wobbly()
    tasks = [Task(clip, 0, settings(preset, "freeze")) for clip, preset in itertools.product(clips, ("default", "exhaustive"))]
    outcomes = learn_many(model, tasks, rows=rows)
    assert max(model.calls) <= rows
    assert sum(model.calls) == sum(mask_of(outcome).passes.forward for outcome in outcomes)
    for task, outcome in zip(tasks, outcomes, strict=True):
        same(outcome, alone(wobbly(), task))


def test_rows_are_as_many_as_half_the_free_memory_holds(wobbly: Any, clips: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [Task(clip, 0, settings("default", operator)) for clip, operator in itertools.product(clips * 3, OPERATORS)]
    need = memory.bytes_per_row(wobbly(), clips[0])
    for free, expected in [(2 * need * 12 + 1, 12), (2 * need * 20 - 1, 19), (2**60, MOST_ROWS)]:
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        model = wobbly()
        learn_many(model, tasks)
        assert max(model.calls) == expected
        assert model.calls[0] == 1  # the measurement


def test_large_clips_after_small_ones_fit_too(score_model: Any, clips: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "bytes_per_row", lambda model, clip: clip.numel())
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * 20 * clips[0].numel())
    seen: list[int] = []

    def noted(brightness: Tensor) -> Tensor:
        seen.append(brightness.numel() * 4)  # 2 x 2 pixels
        return wobble(brightness)

    large = [chance_of(torch.Generator().manual_seed(seed), 16) for seed in range(6)]
    learn_many(score_model(noted), [Task(clip, 0, settings("default", "freeze")) for clip in [*clips, *large]])
    assert max(seen) <= 20 * clips[0].numel()


def test_restarts(wobbly: Any, clips: list[Tensor]) -> None:
    better = 0
    for clip, operator in itertools.product(clips, OPERATORS):
        options = settings("default", operator, seed=7)
        starts = [options, *(replace(options, init="random", seed=7 + number) for number in (1, 2, 3))]
        masks = [alone(wobbly(), Task(clip, 0, start)) for start in starts]
        (outcome,) = learn_many(wobbly(), [Task(clip, 0, options, restarts=4)])
        best = min(masks, key=lambda mask: mask.objective.total or 0.0)
        same(outcome, replace(best, passes=sum((mask.passes for mask in masks), Passes())))
        better += best is not masks[0]
        (once,) = learn_many(wobbly(), [Task(clip, 0, options)])
        assert (mask_of(outcome).objective.total or 0.0) <= (mask_of(once).objective.total or 0.0) + 1e-6
    assert better  # of eight


def test_restarts_of_different_numbers_keep_to_their_tasks(wobbly: Any, clips: list[Tensor]) -> None:
    tasks = [Task(clip, 0, settings("authors", "freeze", steps=3), restarts=number + 1) for number, clip in enumerate(clips)]
    outcomes = learn_many(wobbly(), tasks, rows=8)
    for task, outcome in zip(tasks, outcomes, strict=True):
        (expected,) = learn_many(wobbly(), [task])
        same(outcome, mask_of(expected))


def test_restarts_of_the_exhaustive_search_need_no_gradient(wobbly: Any, clips: list[Tensor]) -> None:
    (outcome,) = learn_many(wobbly(), [Task(clips[0], 0, settings("exhaustive", "freeze"), restarts=3)])
    assert mask_of(outcome).passes.input_gradient == 0


@pytest.mark.parametrize("wrong", [2, -1])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_unknown_class_ends_its_task_alone(wobbly: Any, clips: list[Tensor], place: int, wrong: int) -> None:
    others = [Task(clip, 0, settings("default", "freeze")) for clip in clips]
    outcomes = learn_many(wobbly(), [*others[:place], Task(clips[0], wrong, settings("default", "freeze")), *others[place:]])
    failed = outcomes.pop(place)
    assert failed.mask is None
    assert isinstance(failed.error, UnknownClassError)
    for task, outcome in zip(others, outcomes, strict=True):
        same(outcome, alone(wobbly(), task))


@pytest.mark.parametrize("rows", [5, 64])
def test_an_unknown_class_first_of_all(wobbly: Any, clips: list[Tensor], rows: int) -> None:
    wrong, right = (Task(clips[0], target, settings("default", "freeze"), restarts=2) for target in (9, 0))
    outcomes = learn_many(wobbly(), [wrong, right, wrong], rows=rows)
    assert [type(outcome.error) for outcome in outcomes] == [UnknownClassError, type(None), UnknownClassError]
    (expected,) = learn_many(wobbly(), [right])
    same(outcomes[1], mask_of(expected))


@pytest.mark.parametrize("error", [cuda_is_full, cpu_is_full, MemoryError])
def test_rows_that_do_not_fit_are_halved(wobbly: Any, clips: list[Tensor], error: Any) -> None:
    tasks = [Task(clip, target, settings("default", "freeze")) for clip, target in itertools.product(clips, (0, 1))]
    model = Narrow(wobbly(), 16, error)
    outcomes = learn_many(model, tasks)
    assert model.refused == [32]  # eight times four rows, once; never again so many
    for task, outcome in zip(tasks, outcomes, strict=True):
        same(outcome, alone(wobbly(), task))


@pytest.mark.parametrize("rows", [4, 5, 8])
def test_halves_are_halved_again(wobbly: Any, clips: list[Tensor], rows: int) -> None:
    tasks = [Task(clip, 0, settings("default", operator)) for clip, operator in itertools.product(clips, OPERATORS)]
    model = Narrow(wobbly(), rows, cpu_is_full)
    for task, outcome in zip(tasks, learn_many(model, tasks), strict=True):
        same(outcome, alone(wobbly(), task))


def test_the_last_of_several_halvings_is_remembered(wobbly: Any, clips: list[Tensor]) -> None:
    tasks = [Task(clip, target, settings("default", "freeze")) for clip, target in itertools.product(clips, (0, 1))]
    model = Narrow(wobbly(), 4, cuda_is_full)
    learn_many(model, tasks)
    assert model.refused == [32, 16, 8]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_memory_for_one_row_is_enough(wobbly: Any, clips: list[Tensor], rows: int) -> None:
    tasks = [Task(clip, 0, settings("default", "freeze")) for clip in clips]
    model = Narrow(wobbly(), rows, cuda_is_full)
    for task, outcome in zip(tasks, learn_many(model, tasks), strict=True):
        same(outcome, alone(wobbly(), task))


def test_a_failed_pass_is_forgotten_before_its_halves_are_tried(wobbly: Any, clips: list[Tensor]) -> None:
    model = Narrow(wobbly(), 4, cuda_is_full)
    outcomes = learn_many(model, [Task(clip, 0, settings("default", "freeze")) for clip in clips])
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert len(model.refused) >= 2
    assert max(model.held) == 0


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_clip_without_memory_for_a_row_ends_alone(wobbly: Any, clips: list[Tensor], place: int) -> None:
    others = [Task(clip, 0, settings("default", operator)) for clip, operator in itertools.product(clips[:2], OPERATORS)]
    bright = Task(clips[3] + 100.0, 0, settings("default", "freeze"))
    model = Narrow(wobbly(), MOST_ROWS, cuda_is_full, brightest=50.0)
    outcomes = learn_many(model, [*others[:place], bright, *others[place:]])
    failed = outcomes.pop(place)
    assert failed.mask is None
    assert isinstance(failed.error, torch.OutOfMemoryError)
    for task, outcome in zip(others, outcomes, strict=True):
        same(outcome, alone(wobbly(), task))


def test_one_start_without_memory_leaves_the_others(wobbly: Any, clips: list[Tensor]) -> None:
    # the search for a window fails, random starts need fewer rows
    model = Narrow(wobbly(), 3, cuda_is_full)
    options = settings("authors", "freeze", steps=3, init="random")
    outcomes = learn_many(model, [Task(clips[0], 0, options, restarts=3)])
    masks = [alone(wobbly(), Task(clips[0], 0, replace(options, seed=seed))) for seed in range(3)]
    best = min(masks, key=lambda mask: mask.objective.total or 0.0)
    same(outcomes[0], replace(best, passes=sum((mask.passes for mask in masks), Passes())))


@pytest.mark.parametrize("error", [RuntimeError("broken on purpose"), ValueError("no such thing"), KeyboardInterrupt()], ids=type)
@pytest.mark.parametrize("rows", [None, 8])
def test_other_errors_are_raised(wobbly: Any, clips: list[Tensor], error: Any, rows: int | None) -> None:
    model = Narrow(wobbly(), 0, lambda: error)
    with pytest.raises(type(error)) as caught:
        learn_many(model, [Task(clip, 0, settings("default", "freeze")) for clip in clips], rows=rows)
    assert caught.value is error
    assert len(model.calls) == 1  # and not tried again


def test_clips_of_different_shapes(wobbly: Any) -> None:
    rng = torch.Generator().manual_seed(1)
    clips = [chance_of(rng, frames) for frames in (8, 16, 1, 2, 8)] + [
        torch.rand(1, 1, 8, 3, 5, generator=rng),
        torch.rand(1, 2, 8, 2, 2, generator=rng),
    ]
    tasks = [Task(clip, 0, settings("default", operator)) for clip, operator in itertools.product(clips, OPERATORS)]
    for task, outcome in zip(tasks, learn_many(wobbly(), tasks), strict=True):
        assert len(mask_of(outcome).values) == task.clip.shape[2]
        same(outcome, alone(wobbly(), task))


@pytest.mark.parametrize("rounds", [0, 1, 2, 4, 9])
def test_stopped_masks_are_the_best_so_far(wobbly: Any, clips: list[Tensor], rounds: int) -> None:
    tasks = [Task(clip, 0, settings(preset, "freeze")) for clip, preset in itertools.product(clips, ("default", "authors", "exhaustive"))]
    asked = iter([False] * rounds)
    outcomes = learn_many(wobbly(), tasks, should_stop=lambda: next(asked, True))
    for task, outcome in zip(tasks, outcomes, strict=True):
        expected = finished(state_of(wobbly(), task, rounds), task.options)
        assert mask_of(outcome).objective.total == pytest.approx(expected.objective.total, abs=1e-6)
        assert (mask_of(outcome).passes, mask_of(outcome).converged) == (expected.passes, expected.converged)
        assert mask_of(outcome).values == pytest.approx(expected.values, abs=1e-3)
    if rounds == 0:
        assert {mask_of(outcome).objective for outcome in outcomes} == {Objective()}
        assert {mask_of(outcome).passes for outcome in outcomes} == {Passes()}


def test_rounds_are_told(wobbly: Any, clips: list[Tensor]) -> None:
    tasks = [Task(clip, 0, settings("default", "freeze"), restarts=2) for clip in clips] + [
        Task(clips[0], 5, settings("default", "freeze"))
    ]
    told: list[tuple[int, int]] = []
    learn_many(wobbly(), tasks, on_round=lambda done, all_of_them: told.append((done, all_of_them)))
    assert told == sorted(told)
    assert {number for _, number in told} == {9}
    assert told[0] == (1, 9)  # the one of the unknown class
    assert told[-1] == (9, 9)
    assert len({done for done, _ in told}) > 2  # not all at once


def test_no_tasks(wobbly: Any) -> None:
    model = wobbly()
    assert learn_many(model, [], on_round=lambda done, masks: pytest.fail("no round")) == []
    assert model.calls == []


def test_wrong_tasks(wobbly: Any, clips: list[Tensor]) -> None:
    fine = Task(clips[0], 0, settings("default", "freeze"))
    model = wobbly()
    for shape in [(2, 1, 8, 2, 2), (1, 8, 2, 2), (8,), (0, 1, 8, 2, 2)]:
        with pytest.raises(ValueError, match="does not fit a clip of shape"):
            learn_many(model, [fine, replace(fine, clip=torch.zeros(shape))])
    for restarts in (0, -1):
        with pytest.raises(ValueError, match="at least one start"):
            learn_many(model, [fine, replace(fine, restarts=restarts)])
    with pytest.raises(OptionsError):
        learn_many(model, [replace(fine, clip=torch.zeros(1, 1, 0, 2, 2))])
    assert model.calls == []  # before anything was learned


def test_a_network_without_any_number_has_no_objective(score_model: Any, clips: list[Tensor]) -> None:
    def broken(brightness: Tensor) -> Tensor:
        return torch.where(brightness.amax(dim=1) > 50, math.nan, wobble(brightness))

    tasks = [Task(clip, 0, settings("default", "freeze")) for clip in (clips[0], clips[1] + 100.0, clips[2])]
    one, two, three = learn_many(score_model(broken), tasks)
    assert (mask_of(two).objective, mask_of(two).converged) == (Objective(), False)
    same(one, alone(score_model(wobble), tasks[0]))
    same(three, alone(score_model(wobble), tasks[2]))


def test_the_network_is_left_as_it_was(clips: list[Tensor]) -> None:
    model = Conv()
    model.one.weight.requires_grad_(False)
    model.two.eval()
    tasks = [Task(clip, 0, settings("default", operator)) for clip, operator in itertools.product(clips[:2], OPERATORS)]
    with torch.inference_mode():  # as inside a server
        served = [replace(task, clip=task.clip.clone()) for task in tasks]
        assert served[0].clip.is_inference()
        outcomes = learn_many(model, served, rows=8)
    assert not any(model.trained)  # evaluated, not trained, while it lasts
    for task, outcome in zip(tasks, outcomes, strict=True):
        same(outcome, alone(model, task))
    assert [module.training for module in (model, model.one, model.two, model.head)] == [True, True, False, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 5
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_row_by_hand() -> None:
    model, clip = Conv(), torch.rand(1, 1, 4, 8, 8)
    with frozen(model):
        need = memory.bytes_per_row(model, clip)
    pixels, maps = 4 * 8 * 8 * 4, 4 * 4 * 8 * 8 * 4
    # the clip, the maps of both layers, two probabilities and a class index; and the largest of them three times more
    assert need == pytest.approx(pixels + 2 * maps + 2 * 8 + 8 + 3 * maps, abs=64)


def test_a_row_grows_with_the_clip() -> None:
    model = Conv()
    needs = [memory.bytes_per_row(model, torch.rand(1, 1, frames, size, size)) for frames, size in [(4, 8), (4, 16), (4, 32), (8, 32)]]
    assert needs[0] > 0
    assert [two / one for one, two in itertools.pairwise(needs)] == pytest.approx([4.0, 4.0, 2.0], rel=0.01)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_are_not_part_of_a_row() -> None:
    wide = Conv()
    wide.head = nn.Sequential(nn.Linear(4, 5000), nn.Linear(5000, 2))
    clip = torch.rand(1, 1, 4, 8, 8)
    with frozen(wide):
        assert memory.bytes_per_row(wide, clip) < memory.bytes_per_row(Conv(), clip) + 5000 * 4 + 1000


def test_a_measured_pass_leaves_nothing_behind() -> None:
    model = Conv()
    memory.bytes_per_row(model, torch.rand(1, 1, 4, 8, 8))
    assert [kept() for kept in model.maps] == [None]


def test_a_measured_pass_that_fails_leaves_nothing_behind() -> None:
    model = Conv()
    model.head = nn.Linear(5, 2)  # does not fit: the pass breaks after its convolutions
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        memory.bytes_per_row(model, torch.rand(1, 1, 4, 8, 8))
    assert [kept() is None for kept in model.maps] == [True]


def test_a_late_error_keeps_the_best_mask_so_far(wobbly: Any, clips: list[Tensor]) -> None:
    model = wobbly()
    task = Task(clips[0], 0, settings("default", "freeze"))
    whole = alone(wobbly(), task)
    seen: list[int] = []

    def tired(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        if len(seen) > 8:
            raise MemoryError
        logits: Tensor = type(model).forward(model, rows)
        return logits

    model.forward = tired
    (outcome,) = learn_many(model, [task], rows=4)
    assert isinstance(outcome.error, MemoryError)
    assert outcome.mask is not None
    assert not outcome.mask.converged
    assert outcome.mask.passes.total < whole.passes.total
    assert (outcome.mask.objective.total or 0) >= (whole.objective.total or 0)


def test_each_shape_has_its_own_limit(wobbly: Any, clips: list[Tensor]) -> None:
    large = clips[0].repeat(1, 1, 1, 4, 4)

    class NoRoomForLarge(nn.Module):
        default_layers = ("none",)

        def __init__(self) -> None:
            super().__init__()
            self.network, self.calls = wobbly(), []

        def forward(self, rows: Tensor) -> Tensor:
            self.calls.append((rows.shape[-1], len(rows)))
            if rows.shape[-1] > clips[0].shape[-1] and len(rows) > 1:
                raise MemoryError
            logits: Tensor = self.network(rows)
            return logits

    model = NoRoomForLarge()
    outcomes = learn_many(model, [Task(clip, 0, settings("default", "freeze")) for clip in (large, large, *clips)], rows=16)
    assert [outcome.error for outcome in outcomes] == [None] * (2 + len(clips))
    assert max(rows for size, rows in model.calls if size == clips[0].shape[-1]) > 4


def test_free_bytes() -> None:
    free = memory.free_bytes(torch.device("cpu"))
    assert isinstance(free, int)
    with open("/proc/meminfo", encoding="ascii") as lines:
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    assert 0 < free <= total


def test_free_bytes_of_a_control_group(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(memory, "_GROUPS", ((str(tmp_path / "none"), "a", "b"), (str(tmp_path), "memory.max", "memory.current")))
    machine = memory._available()
    for granted, taken, expected in [("5000000\n", "2000000\n", 3_000_000), ("5000000\n", "6000000\n", 0), ("max\n", "2000000\n", machine)]:
        limit.write_text(granted)
        used.write_text(taken)
        assert memory.free_bytes(torch.device("cpu")) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (MemoryError(), True),
        (RuntimeError(CPU_IS_FULL), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("broken on purpose"), False),
        (ValueError("can't allocate memory"), False),
        (OSError("not enough memory"), False),
        (KeyboardInterrupt(), False),
        (UnknownClassError("Class 7 does not exist."), False),
    ],
)
def test_ran_out(error: BaseException, expected: bool) -> None:
    assert memory.ran_out(error) is expected


def test_an_allocation_that_cannot_be_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.float64)
    assert memory.ran_out(caught.value)
