"""The trust region: its parts by hand, the whole on log-odds that are exactly quadratic."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from chronolens.explain.objective import total_variation
from chronolens.explain.presets import MaskSettings, settings
from chronolens.explain.trust_region import (
    CERTAIN,
    GAIN,
    SMALLEST_RADIUS,
    Region,
    _bounds,
    _minimise,
    _penalty,
    _sigmoid,
    _updated,
    converged,
    learn,
    propose,
)

Vector = npt.NDArray[np.float64]
Score = Callable[[Vector], tuple[float, Vector]]
FREEZE, REVERSE = settings("default", "freeze"), settings("default", "reverse")


def quadratic(seed: int, frames: int) -> Score:
    """Return a class probability, and its slope, whose log-odds are convex and quadratic in the mask."""
    rng = np.random.default_rng(seed)
    root, slope, start = rng.normal(0, 1.5, (frames, frames)), rng.normal(-1, 3, frames), rng.normal(1, 1)
    bend = root @ root.T / frames

    def score(mask: Vector) -> tuple[float, Vector]:
        chance = 1 / (1 + math.exp(-(start + slope @ mask + mask @ bend @ mask / 2)))
        return chance, chance * (1 - chance) * (slope + bend @ mask)

    return score


def cost(mask: Vector) -> float:
    """0.01 of the length and 0.02 of the total variation with exponent 3."""
    steps = np.abs(np.diff(mask)) ** 3
    return float(0.01 * mask.sum() + 0.02 * (steps[:-1].sum() + steps[1:].sum()))


def tell(region: Region, score: Score, options: MaskSettings = FREEZE) -> bool:
    """Evaluate what is asked for and learn from it."""
    mask = np.array(region.point or region.centre)
    chance, slope = score(mask)
    return learn(region, chance, _penalty(mask, options)[0] + chance, slope.tolist())


def descend(region: Region, score: Score, options: MaskSettings = FREEZE, most: int = 100) -> list[list[float]]:
    """Return every mask that was evaluated."""
    asked = [region.centre]
    assert tell(region, score, options)
    while propose(region, options) and len(asked) < most:
        assert region.point is not None
        asked.append(region.point)
        assert tell(region, score, options)
    return asked


def numbers(value: Any) -> list[Any]:
    """Return the leaves of nested dicts and lists."""
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in numbers(part)]
    return [leaf for part in value for leaf in numbers(part)] if isinstance(value, list) else [value]


def known(centre: list[float], slope: list[float] | None = None, log_odds: float = 0.0, radius: float = 0.2, **more: Any) -> Region:
    """Return a region whose centre was evaluated, without curvature."""
    frames = len(centre)
    total = _sigmoid(log_odds) + cost(np.array(centre))
    flat = [[0.0] * frames for _ in range(frames)]
    return Region(centre, radius, total, log_odds, slope or [0.0] * frames, more.pop("curvature", flat), **more)


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("frames", [1, 2, 3, 16])
def test_the_penalty_is_that_of_the_objective(frames: int, beta: float) -> None:
    rng = np.random.default_rng(frames)
    for l1, tv in [(0.01, 0.02), (0.3, 0.0), (0.0, 0.7)]:
        options = settings("default", "freeze", l1=l1, tv=tv, beta=beta)
        for _ in range(5):
            mask = rng.random(frames)
            mask[rng.integers(frames) :] = mask[-1]  # some neighbours are alike
            value, slope = _penalty(mask, options)
            moved = torch.tensor(mask, requires_grad=True)
            expected = l1 * moved.sum() + tv * total_variation(moved, beta)
            (pull,) = torch.autograd.grad(expected, moved)
            assert value == pytest.approx(expected.item(), abs=1e-12)
            assert slope == pytest.approx(pull.numpy(), abs=1e-12)


def test_the_penalty_by_hand() -> None:
    # (1, 0, 0.5, 0.5): 0.01 * 2 + 0.02 * 1.25; the slope of |d|^3 is 3 d^2, the middle difference counts twice
    value, slope = _penalty(np.array([1.0, 0.0, 0.5, 0.5]), FREEZE)
    assert value == pytest.approx(0.045)
    assert slope == pytest.approx(0.01 + 0.02 * np.array([3.0, -3.0 - 1.5, 1.5, 0.0]))
    for short in ([0.3], [0.0, 1.0]):
        value, slope = _penalty(np.array(short), FREEZE)
        assert value == pytest.approx(0.01 * sum(short))
        assert slope.tolist() == [0.01] * len(short)


@pytest.mark.parametrize(
    ("pull", "expected", "lowest"),
    [
        # f = x^2 + xy + 2y^2 - pull: slopes 2x + y - p and x + 4y - q
        ((3, 1), (1, 0), -2.0),  # both zero at x = 11/7, y = -1/7; at the corner the slopes are -1 and 0
        ((3, 3), (1, 0.5), -2.5),  # x at its limit with slope -0.5, y free
        ((0.75, 1.25), (0.25, 0.25), -0.25),  # inside, both slopes are zero
        ((-1, 2), (0, 0.5), -0.5),  # x at its limit with slope 1.5
        ((9, 9), (1, 1), -14.0),
    ],
)
@pytest.mark.parametrize("start", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.3, 0.8)])
def test_minimum_of_a_quadratic_in_a_square(pull: Any, expected: Any, lowest: float, start: Any) -> None:
    def model(at: Vector) -> tuple[float, Vector]:
        (x, y), (p, q) = at, pull
        return x * x + x * y + 2 * y * y - p * x - q * y, np.array([2 * x + y - p, x + 4 * y - q])

    point, value = _minimise(model, np.array(start), np.zeros(2), np.ones(2))
    assert point == pytest.approx(np.array(expected), abs=1e-4)
    assert value == pytest.approx(lowest, abs=1e-6)


def test_minimum_of_random_quadratics_against_a_grid() -> None:
    rng = np.random.default_rng(0)
    grid = np.array(list(itertools.product(np.linspace(0, 1, 101), repeat=2)))
    for _ in range(30):
        root, pull = rng.normal(0, 1, (2, 2)), rng.normal(0, 2, 2)
        bend = root @ root.T + 0.1 * np.eye(2)
        low, high = np.sort(rng.choice(101, (2, 2)) / 100, axis=0)
        start = low + rng.random(2) * (high - low)
        point, value = _minimise(lambda at: (at @ bend @ at / 2 - pull @ at, bend @ at - pull), start, low, high)  # noqa: B023
        inside = grid[((grid >= low - 1e-9) & (grid <= high + 1e-9)).all(axis=1)]
        assert value <= (np.einsum("ni,ij,nj->n", inside, bend, inside) / 2 - inside @ pull).min() + 1e-6
        assert (low - 1e-12 <= point).all()
        assert (point <= high + 1e-12).all()
        assert value == pytest.approx(point @ bend @ point / 2 - pull @ point)


def test_update_by_hand() -> None:
    nothing = np.zeros((2, 2))
    assert _updated(nothing, np.array([1.0, 0.0]), np.array([3.0, 5.0])).tolist() == [[3.0, 5.0], [5.0, 0.0]]
    # [[p, q], [q, r]] (1, 1) = (2, 0) leaves p = 2 - q and r = -q; (2 - q)^2 + 2 q^2 + q^2 is least at q = 1/2
    assert _updated(nothing, np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist() == [[1.5, 0.5], [0.5, -0.5]]
    right = np.array([[2.0, -1.0], [-1.0, 4.0]])
    assert _updated(right, np.array([0.5, 0.25]), right @ [0.5, 0.25]).tolist() == right.tolist()  # nothing new


@pytest.mark.parametrize("frames", [2, 5, 16])
def test_update_is_the_least_that_explains_the_step(frames: int) -> None:
    rng = np.random.default_rng(frames)
    for _ in range(10):
        bend = (root := rng.normal(0, 3, (frames, frames))) + root.T
        step, change = rng.normal(0, 0.2, frames), rng.normal(0, 5, frames)
        updated = _updated(bend, step, change)
        assert updated @ step == pytest.approx(change)
        assert updated == pytest.approx(updated.T)
        # any other symmetric matrix that maps the step alike is farther away; those differ by a part that maps it to zero
        across = np.eye(frames) - np.outer(step, step) / (step @ step)
        other = across @ ((noise := rng.normal(0, 1, (frames, frames))) + noise.T) @ across
        assert other @ step == pytest.approx(np.zeros(frames), abs=1e-9)
        assert np.vdot(updated - bend, other) == pytest.approx(0, abs=1e-8)
        assert np.linalg.norm(updated + other - bend) > np.linalg.norm(updated - bend)


def test_a_step_by_hand() -> None:
    # Two frames, nothing learned of the class: both values fall by the radius, which saves 0.01 * 0.4.
    region = known([0.5, 0.5])
    assert propose(region, FREEZE)
    assert region.point == pytest.approx([0.3, 0.3])
    assert region.gain == pytest.approx(0.004)
    # The log-odds fall by 4 for each unit of frame 1 and rise as much with frame 0
    region = known([0.5, 0.5], [4.0, -4.0])
    assert propose(region, FREEZE)
    assert region.point == pytest.approx([0.3, 0.7])
    assert region.gain == pytest.approx(0.5 - 1 / (1 + math.exp(1.6)))
    # With curvature: z = -4 d + 20 d^2 of frame 1 is least at d = 0.1 but for the penalty, which pulls a little to the left
    region = known([0.0, 0.5], [0.0, -4.0], curvature=[[0.0, 0.0], [0.0, 40.0]])
    assert propose(region, FREEZE)
    assert region.point == pytest.approx([0.0, 0.599], abs=5e-4)
    assert region.gain == pytest.approx(0.5 - 1 / (1 + math.exp(0.2)) - 0.001, abs=1e-5)


def test_masks_of_0_and_1_are_ordinary_points() -> None:
    # at (1, 0, 1) the log-odds are 5 - 9, and a frame less would gain 0.01 and lose 0.1
    region = known([0.0, 1.0, 0.0], [-3.0, 3.0, -3.0], log_odds=5.0, radius=1.0)
    assert propose(region, settings("default", "freeze", tv=0.0))
    assert region.point == pytest.approx([1.0, 0.0, 1.0])
    assert region.gain == pytest.approx(1 / (1 + math.exp(-5)) - 1 / (1 + math.exp(4)) - 0.01)
    assert all(0.0 <= value <= 1.0 for value in region.point or [])


def test_steps_that_are_not_worth_a_pass() -> None:
    for region in [
        known([0.5], [40.0], radius=SMALLEST_RADIUS * 0.99),  # much is promised, but the model was wrong too often
        known([0.5 * GAIN / 0.01]),
        known([0.0, 0.0, 0.0], radius=1.0),
    ]:
        before = asdict(region)
        assert not propose(region, FREEZE)
        assert asdict(region) == before
    region = known([1.5 * GAIN / 0.01])
    assert propose(region, FREEZE)
    assert (region.point, region.gain) == ([pytest.approx(0.0, abs=1e-9)], pytest.approx(1.5 * GAIN))


def test_the_first_evaluation_makes_the_centre() -> None:
    region = Region([0.25, 0.75], 0.2)
    assert learn(region, 0.8, 0.81, [0.32, -0.16])
    assert (region.total, region.centre, region.point, region.radius) == (0.81, [0.25, 0.75], None, 0.2)
    assert region.log_odds == pytest.approx(math.log(4))
    assert region.slope == pytest.approx([2.0, -1.0])  # by 0.8 * 0.2
    assert region.curvature == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("fall", "length", "radius", "moves"),
    [
        (0.100, 0.2, 0.4, True),  # all that was promised, as far as was allowed
        (0.100, 0.1, 0.2, True),  # the radius was no limit
        (0.060, 0.2, 0.2, True),
        (0.020, 0.2, 0.1, True),  # a fifth of it
        (0.020, 0.1, 0.05, True),
        (0.004, 0.2, 0.1, False),  # a twenty-fifth
        (-0.300, 0.2, 0.1, False),
        (-0.300, 0.1, 0.05, False),
    ],
)
def test_radius_and_centre_follow_the_promise(fall: float, length: float, radius: float, moves: bool) -> None:
    region = known([0.5, 0.5], [4.0, -4.0], point=[0.5 - length, 0.5 + length / 2], gain=0.1)
    before, total = asdict(region), region.total or 0.0
    assert learn(region, 0.25, total - fall, [0.75, -0.375])
    assert region.radius == pytest.approx(radius)
    assert region.point is None
    # refused or not, it tells how the log-odds bend: their slope there is (4, -2)
    assert np.array(region.curvature) @ [-length, length / 2] == pytest.approx(np.array([0.0, 2.0]))
    if moves:
        assert region.centre == [0.5 - length, 0.5 + length / 2]
        assert (region.total, region.log_odds) == (pytest.approx(total - fall), pytest.approx(-math.log(3)))
        assert region.slope == pytest.approx([4.0, -2.0])
    else:
        assert {key: value for key, value in asdict(region).items() if key not in ("radius", "curvature", "point")} == {
            key: value for key, value in before.items() if key not in ("radius", "curvature", "point")
        }


def test_the_radius_ends_at_1() -> None:
    region = known([1.0, 1.0], radius=0.7, point=[0.3, 0.3], gain=0.1)
    assert learn(region, 0.4, (region.total or 0.0) - 0.1, [0.0, 0.0])
    assert region.radius == 1.0


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    ("score", "total", "slope"),
    [
        (0.5, math.nan, [0.1, 0.1]),
        (0.5, math.inf, [0.1, 0.1]),
        (0.5, -math.inf, [0.1, 0.1]),
        (0.5, 0.5, [0.1, math.nan]),
        (0.5, 0.5, [math.inf, 0.1]),
        (math.nan, 0.5, [0.1, 0.1]),
        (math.nan, math.nan, [math.nan, math.nan]),
    ],
)
def test_what_is_not_finite_changes_nothing(score: float, total: float, slope: list[float], fresh: bool) -> None:
    region = Region([0.5, 0.5], 0.2) if fresh else known([0.5, 0.5], [4.0, -4.0], point=[0.3, 0.7], gain=0.1)
    before = asdict(region)
    assert not learn(region, score, total, slope)
    assert asdict(region) == before


@pytest.mark.parametrize(("score", "log_odds"), [(0.0, math.log(CERTAIN)), (1.0, -math.log(CERTAIN))])
def test_certain_scores_stay_finite(score: float, log_odds: float) -> None:
    region = Region([0.5, 0.5], 0.2)
    assert learn(region, score, score + 0.01, [0.0, 1e-7])
    assert region.log_odds == pytest.approx(log_odds, abs=1e-5)
    assert region.slope == pytest.approx([0.0, 0.1], abs=1e-5)
    propose(region, FREEZE)
    json.dumps(asdict(region), allow_nan=False)
    assert [_sigmoid(value) for value in (-1e300, -math.log(3), 0.0, 1e300)] == pytest.approx([0.0, 0.25, 0.5, 1.0], abs=1e-12)


@pytest.mark.parametrize("frames", [3, 4])
def test_quadratic_log_odds_are_minimised(frames: int) -> None:
    grid = np.array(list(itertools.product(np.linspace(0, 1, 21 if frames == 3 else 11), repeat=frames)))
    penalty = np.array([cost(mask) for mask in grid])
    asked, inside = [], 0
    for seed in range(8):
        score = quadratic(seed, frames)
        region = Region([0.5] * frames, 0.2)
        masks = descend(region, score)
        lowest = (penalty + [score(mask)[0] for mask in grid]).min()
        assert region.total <= lowest + 0.003
        assert region.total == pytest.approx(score(np.array(region.centre))[0] + cost(np.array(region.centre)))
        assert converged(region, FREEZE)
        assert all(0.0 <= value <= 1.0 for mask in masks for value in mask)
        asked.append(len(masks))
        inside += any(0.05 < value < 0.95 for value in region.centre)
    assert max(asked) <= 8
    assert inside >= 2  # not only corners


def test_totals_fall_from_centre_to_centre() -> None:
    for seed in range(5):
        region, score = Region([0.95] * 8, 0.2), quadratic(seed, 8)
        tell(region, score)
        totals = [region.total]
        while propose(region, FREEZE):
            assert region.point is not None
            assert np.abs(np.subtract(region.point, region.centre)).max() <= region.radius + 1e-12
            assert region.gain >= GAIN
            tell(region, score)
            totals.append(region.total)
        assert len(totals) > 2
        assert totals == sorted(totals, reverse=True)
        assert region.total == pytest.approx(cost(np.array(region.centre)) + score(np.array(region.centre))[0])


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
def test_a_reverse_mask_keeps_its_runs(threshold: float) -> None:
    options = settings("default", "reverse", threshold=threshold)
    floor = max(threshold, 0.5)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        start, stop = sorted(rng.choice(9, 2, replace=False).tolist())
        stop += 2
        run = [start <= frame < stop for frame in range(10)]
        masks = descend(Region([0.95 if on else 0.0 for on in run], 0.2), quadratic(seed, 10), options)
        assert len(masks) > 2
        for mask in masks:
            assert [value > threshold for value in mask] == run
            assert all(value > floor if on else value <= min(threshold, 0.5) for value, on in zip(mask, run, strict=True))
        free = descend(Region([0.95 if on else 0.0 for on in run], 0.2), quadratic(seed, 10), FREEZE)
        assert any([value > threshold for value in mask] != run for mask in free)  # freezing has no runs to keep


def test_bounds_by_hand() -> None:
    centre = np.array([0.0, 0.05, 0.1, 0.2, 0.95, 1.0])
    low, high = _bounds(centre, FREEZE)
    assert (low.tolist(), high.tolist()) == ([0.0] * 6, [1.0] * 6)
    low, high = _bounds(centre, REVERSE)  # 0.2 is of a run, but lower than a step may leave it
    assert low == pytest.approx([0.0, 0.0, 0.0, 0.2, 0.505, 0.505])
    assert high == pytest.approx([0.1, 0.1, 0.1, 1.0, 1.0, 1.0])
    low, high = _bounds(np.array([0.0, 0.6, 0.8]), settings("default", "reverse", threshold=0.7))
    assert low == pytest.approx([0.0, 0.0, 0.705])
    assert high == pytest.approx([0.5, 0.6, 1.0])  # what lies above one half may stay, but no run begins there


def test_no_frame_joins_a_run_by_rounding() -> None:
    # the slope wants frame 2 up; 0.08 + (0.21 - 0.08) is 0.21000000000000002
    region = known([1.0, 1.0, 0.08], [-3.0, -3.0, -3.0], radius=1.0)
    assert propose(region, settings("default", "reverse", threshold=0.21))
    assert region.point == pytest.approx([1.0, 1.0, 0.21])
    assert [value > 0.21 for value in region.point or []] == [True, True, False]


def test_json_between_all_steps_changes_no_bit() -> None:
    for options, start in [(FREEZE, [0.5] * 7), (REVERSE, [0.0, 0.0, 0.95, 0.95, 0.95, 0.95, 0.0])]:
        score, whole = quadratic(1, 7), Region(list(start), 0.2)
        cut = Region(list(start), 0.2)
        rounds = 0
        while True:
            cut = Region(**json.loads(json.dumps(asdict(cut), allow_nan=False)))
            assert tell(whole, score, options)
            assert tell(cut, score, options)
            cut = Region(**json.loads(json.dumps(asdict(cut), allow_nan=False)))
            more = propose(cut, options)
            assert propose(whole, options) == more
            assert asdict(whole) == asdict(cut)
            assert converged(whole, options) == converged(cut, options)
            assert {type(leaf) for leaf in numbers(asdict(whole))} <= {float, type(None)}
            rounds += 1
            if not more:
                break
        assert rounds > 2


def test_converged_by_hand() -> None:
    # without a slope of the class each frame saves 0.01 * min(0.2, m); two thousandths are worth mentioning
    assert converged(known([0.1]), FREEZE)
    assert not converged(known([0.3, 0.05]), FREEZE)
    assert converged(known([0.0, 0.0]), FREEZE)
    assert not converged(known([1.0] * 16), FREEZE)
    assert converged(known([1.0] * 16, [-3.0] * 16), FREEZE)  # every frame is needed: 0.75 > 0.01
    assert not converged(known([0.0] * 16, [-3.0] * 16), FREEZE)
    assert converged(known([0.0] * 16, [-3.0] * 16, log_odds=-12.0), FREEZE)  # but nothing is left to gain
    assert not converged(Region([0.0, 0.0], 0.2), FREEZE)  # nothing is known
    far = known([0.3, 0.3], radius=0.001)  # whatever the radius is now
    assert not propose(far, FREEZE)
    assert not converged(far, FREEZE)


def test_converged_changes_nothing() -> None:
    region = known([0.3, 0.3], [1.0, -2.0])
    before = asdict(region)
    assert not converged(region, FREEZE)
    assert asdict(region) == before
