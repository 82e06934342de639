"""The exhaustive search against brute force that shares no code with it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chronolens.errors import OptionsError
from chronolens.explain.known import Known, Row
from chronolens.explain.mask_state import MaskState, Optimum
from chronolens.explain.presets import MaskSettings, settings
from chronolens.explain.protocol import Passes
from chronolens.explain.temporal_mask import advance, begin, finished, progress
from chronolens.options import MaskOptions, mask_settings

Window = tuple[int, int]
Formula = Callable[[Tensor], Tensor]


def learn(model: Any, clip: Tensor, options: MaskSettings, **more: Any) -> MaskState:
    state = begin(options, clip.shape[2])
    while not state.done:
        state = advance(model, clip, 0, options, state, **more)
    return state


def frozen_by(values: list[float], mask: list[float]) -> list[float]:
    """Hold frames back one after another."""
    shown = [values[0]]
    for value, share in zip(values[1:], mask[1:], strict=True):
        shown.append((1 - share) * value + share * shown[-1])
    return shown


def reversed_by(values: list[float], mask: list[float]) -> list[float]:
    """Turn the run of ones round."""
    on = [t for t, share in enumerate(mask) if share == 1]
    turned = dict(zip(on, reversed(on), strict=True))
    return [values[turned.get(t, t)] for t in range(len(values))]


def cost(mask: list[float]) -> float:
    """0.01 of the length and 0.02 of the total variation with exponent 3, the frames at both ends counted once."""
    steps = [abs(two - one) ** 3 for one, two in itertools.pairwise(mask)]
    return 0.01 * sum(mask) + 0.02 * (sum(steps[:-1]) + sum(steps[1:]))


def brute(formula: Formula, values: list[float], operator: str, on: float = 1.0, off: float = 0.0) -> dict[Window, float]:
    """Return the objective of every contiguous window, the empty one as (0, 0)."""
    frames = len(values)
    windows = {(a, b) for a in range(frames) for b in range(a, frames + 1)}
    if operator == "freeze":
        windows = {window for window in windows if window[0] > 0}  # frame 0 has none before it
    windows = {(a, b) if b > a else (0, 0) for a, b in windows if operator == "freeze" or b - a != 1}
    found = {}
    for a, b in windows | {(0, 0)}:
        mask = [on if a <= t < b else off for t in range(frames)]
        shown = frozen_by(values, mask) if operator == "freeze" else reversed_by(values, mask)
        logit = float(formula(torch.tensor([shown], dtype=torch.float32)))
        found[a, b] = cost(mask) + 1 / (1 + math.exp(-logit))
    return found


def window_of(mask: list[float] | tuple[float, ...]) -> Window:
    on = [t for t, value in enumerate(mask) if value > 0.5]
    return (on[0], on[-1] + 1) if on else (0, 0)


def some_formula(seed: int, frames: int) -> tuple[Formula, list[float]]:
    """A formula of values and of steps between frames, and a clip whose score is high by it."""
    rng = np.random.default_rng(seed)
    slope, bend = (torch.tensor(rng.normal(0, 1.5, size), dtype=torch.float32) for size in (frames, frames - 1))

    def formula(b: Tensor) -> Tensor:
        return b @ slope + (b[:, 1:] - b[:, :-1]).abs() @ bend + shift

    values = rng.random(frames).tolist()
    shift = 0.0
    shift = 1.5 - float(formula(torch.tensor([values])))
    return formula, values


@pytest.mark.parametrize("operator", ["freeze", "reverse"])
@pytest.mark.parametrize("frames", [6, 8])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_windows_is_found(score_model: Any, clip_of: Any, operator: Any, frames: int, seed: int) -> None:
    formula, values = some_formula(seed, frames)
    model, options = score_model(formula), settings("exhaustive", operator)
    mask = finished(state := learn(model, clip_of(values), options), options)
    expected = brute(formula, values, operator)
    count = 1 + frames * (frames - 1) // 2
    assert len(expected) == count
    best = min(expected, key=expected.__getitem__)
    assert window_of(mask.values) == best
    assert set(np.round(mask.values, 12)) <= {0.0, 1.0}
    assert mask.objective.total == pytest.approx(expected[best], abs=1e-6)
    assert mask.objective.total == pytest.approx(mask.objective.l1 + mask.objective.tv + mask.objective.score, abs=1e-12)
    assert mask.passes == Passes(forward=count)  # and no gradient
    assert sum(model.calls) == count
    assert max(model.calls) <= 4
    assert (mask.converged, mask.steps, state.history) == (True, 0, [])
    assert progress(state, options) == (count, count)
    assert mask.optimum == Optimum("contiguous windows", count, count, *(pytest.approx(value) for value in sorted(expected.values())[:2]))


def test_the_winners_differ(score_model: Any, clip_of: Any) -> None:
    """The formulas above are no test if the same window, or none, always wins."""
    best: dict[str, set[Window]] = {"freeze": set(), "reverse": set()}
    for operator, frames, seed in itertools.product(best, (6, 8), range(4)):
        formula, values = some_formula(seed, frames)
        objectives = brute(formula, values, operator)
        best[operator].add(min(objectives, key=objectives.__getitem__))
        first, second = sorted(objectives.values())[:2]
        assert second - first > 1e-5  # no tie that rounding could decide
    assert all(len(found) >= 4 for found in best.values())


@pytest.mark.parametrize("operator", ["freeze", "reverse"])
def test_a_window_without_a_number_leaves_the_best_of_the_rest(score_model: Any, clip_of: Any, operator: Any) -> None:
    formula, values = some_formula(1, 6)
    objectives = brute(formula, values, operator)
    best, second = sorted(objectives, key=objectives.__getitem__)[:2]
    mask = [float(best[0] <= t < best[1]) for t in range(6)]
    shown = frozen_by(values, mask) if operator == "freeze" else reversed_by(values, mask)
    trap = torch.tensor(shown, dtype=torch.float32)

    def broken(b: Tensor) -> Tensor:
        return torch.where((b - trap).abs().amax(dim=1) < 1e-5, math.nan, formula(b))

    options = settings("exhaustive", operator)
    found = finished(state := learn(score_model(broken), clip_of(values), options), options)
    assert best != (0, 0)
    assert state.scores.count(None) == 1
    assert not found.converged
    assert window_of(found.values) == second
    assert found.objective.total == pytest.approx(objectives[second], abs=1e-6)
    assert found.passes == Passes(forward=16)
    assert found.optimum is not None
    assert (found.optimum.size, found.optimum.scored, found.optimum.best) == (16, 15, pytest.approx(objectives[second], abs=1e-6))


def test_a_network_without_any_number_has_no_objective(score_model: Any, clip_of: Any) -> None:
    options = settings("exhaustive", "freeze")
    mask = finished(learn(score_model(lambda b: b[:, 0] * math.nan), clip_of([0.0, 1.0, 0.0, 1.0]), options), options)
    assert (mask.converged, mask.objective.total) == (False, None)
    assert mask.optimum == Optimum("contiguous windows", 7, 0, None, None)
    json.dumps(mask.to_json(), allow_nan=False)


@pytest.mark.parametrize("operator", ["freeze", "reverse"])
def test_a_score_without_time_gets_the_empty_mask(score_model: Any, clip_of: Any, operator: Any) -> None:
    options = settings("exhaustive", operator)
    mask = finished(learn(score_model(lambda b: 0 * b[:, 0]), clip_of([0.1, 0.7, 0.4, 0.9, 0.2, 0.6]), options), options)
    assert max(mask.values) < 1e-12
    assert mask.objective.total == pytest.approx(0.5, abs=1e-12)
    assert mask.converged


@pytest.mark.parametrize("operator", ["freeze", "reverse"])
def test_slices_through_json_find_the_same(score_model: Any, clip_of: Any, operator: Any) -> None:
    formula, values = some_formula(2, 8)
    options = settings("exhaustive", operator)
    whole = learn(score_model(formula), clip_of(values), options, max_steps=1000)
    state, slices = begin(options, 8), 0
    while not state.done:
        state = advance(score_model(formula), clip_of(values), 0, options, state, max_steps=1)
        state = MaskState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
        slices += 1
    assert slices == math.ceil(29 / 4)  # four windows a step
    assert state == whole
    assert finished(state, options) == finished(whole, options)


def test_no_steps_are_for_the_exhaustive_search_alone() -> None:
    assert settings("exhaustive", "freeze").steps == 0
    assert settings("default", "freeze", init="exhaustive", steps=0).steps == 0
    assert settings("exhaustive", "reverse").pair == "mean"
    assert mask_settings(MaskOptions(preset="exhaustive"), "reverse") == settings("exhaustive", "reverse", seed=0)
    for init in ("central", "authors-central", "window", "random"):
        with pytest.raises(OptionsError) as caught:
            settings("exhaustive", "freeze", init=init)
        assert caught.value.pointer == "/mask/init"
        assert settings("exhaustive", "freeze", init=init, steps=5).steps == 5
    with pytest.raises(OptionsError) as caught:
        settings("exhaustive", "freeze", steps=-1)
    assert (caught.value.pointer, caught.value.limit) == ("/mask/steps", 0)
    made = settings("exhaustive", "reverse", l1=0.5)
    assert MaskSettings.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("seed", range(3))
def test_the_optimiser_starts_from_the_best_window_of_all(score_model: Any, clip_of: Any, seed: int) -> None:
    formula, values = some_formula(seed, 8)
    model, options = score_model(formula), settings("default", "freeze", init="exhaustive")
    objectives = brute(formula, values, "freeze")
    empty = objectives.pop((0, 0))  # competes for the result, but is no start
    best = min(objectives, key=objectives.__getitem__)
    state = begin(options, 8)
    while state.phase == "start":
        state = advance(model, clip_of(values), 0, options, state, max_steps=1)
    assert state.point == [0.95 if best[0] <= t < best[1] else 0.0 for t in range(8)]
    assert (state.step, state.passes) == (0, Passes(forward=29))
    assert state.best is not None
    assert state.best.total == pytest.approx(min(empty, objectives[best]), abs=1e-6)
    while not state.done:
        state = advance(model, clip_of(values), 0, options, state)
    mask = finished(state, options)
    starts = 2 if len(state.history) - mask.steps == 2 else 1  # a second window may have had its turn
    assert 0 < mask.steps <= 40
    assert mask.passes == Passes(29 + mask.steps + starts, mask.steps + starts, 0)
    assert mask.objective.total <= min(empty, objectives[best]) + 1e-6


@pytest.mark.parametrize("operator", ["freeze", "reverse"])
def test_what_is_known_costs_nothing(score_model: Any, clip_of: Any, operator: Any) -> None:
    formula, values = some_formula(3, 6)
    options = settings("exhaustive", operator)
    whole = finished(learn(model := score_model(formula), clip_of(values), options), options)
    original = 1 / (1 + math.exp(-float(formula(torch.tensor([values])))))
    # the clip as it is, by the other operator's name, and a few windows
    known = Known([(Row("reverse", (0.0,) * 6), original)])
    for window in ((1, 3), (2, 6), (3, 5)):
        mask = [float(window[0] <= t < window[1]) for t in range(6)]
        shown = frozen_by(values, mask) if operator == "freeze" else reversed_by(values, mask)
        known.add(Row(operator, tuple(mask), options.pair, options.threshold), 1 / (1 + math.exp(-float(formula(torch.tensor([shown]))))))
    state = begin(options, 6, known)
    while not state.done:
        state = advance(model := score_model(formula), clip_of(values), 0, options, state, max_steps=100)
    found = finished(state, options)
    assert (found.values, found.passes) == (whole.values, Passes(forward=16 - 4))
    assert sum(model.calls) == 12
    assert found.objective.total == pytest.approx(whole.objective.total, abs=1e-6)


@pytest.mark.parametrize("operator", ["freeze", "reverse"])
def test_one_and_two_frames(score_model: Any, clip_of: Any, operator: Any) -> None:
    options = settings("exhaustive", operator)
    one = finished(learn(score_model(lambda b: 4 * b[:, 0]), clip_of([1.0]), options), options)
    assert max(one.values) < 1e-12
    assert (one.passes, one.converged) == (Passes(forward=1), True)
    assert one.objective.total == pytest.approx(1 / (1 + math.exp(-4)), abs=1e-6)
    # a rise from 0 to 1 with the logit 5: frozen it is 0, reversed it is -5
    two = finished(learn(score_model(lambda b: 5 * (b[:, 1] - b[:, 0])), clip_of([0.0, 1.0]), options), options)
    assert np.round(two.values, 12).tolist() == ([0.0, 1.0] if operator == "freeze" else [1.0, 1.0])
    assert (two.passes, two.converged) == (Passes(forward=2), True)
    expected = 0.01 + 0.5 if operator == "freeze" else 0.02 + 1 / (1 + math.exp(5))
    assert two.objective.total == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("frames", [1, 2])
def test_the_optimiser_follows_in_short_clips_too(score_model: Any, clip_of: Any, frames: int) -> None:
    for operator in ("freeze", "reverse"):
        options = settings("default", operator, init="exhaustive", steps=2)
        mask = finished(learn(score_model(lambda b: b[:, -1] - b[:, 0]), clip_of([0.0, 1.0][:frames]), options), options)
        assert len(mask.values) == frames
        assert mask.steps <= 2
        assert math.isfinite(mask.objective.total or math.nan)


@pytest.mark.parametrize(("preset", "init"), [("exhaustive", None), ("default", None), ("authors", "window")])
def test_a_threshold_that_no_window_passes_is_refused(preset: str, init: str | None) -> None:
    assert settings(preset, "reverse", init=init, threshold=0.99).threshold == 0.99
    assert settings(preset, "freeze", init=init, threshold=1.0).threshold == 1.0  # freezing has no runs
    with pytest.raises(OptionsError) as caught:
        settings(preset, "reverse", init=init, threshold=1.0)
    assert caught.value.pointer == "/mask/threshold"
