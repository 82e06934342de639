"""The search for the best window, on tables of scores that are known completely."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from chronolens.explain.window_search import (
    CERTAIN,
    FIRST,
    MOST,
    NOISE,
    REACH,
    Window,
    _distances,
    _log_odds,
    _matern,
    _posterior,
    all_windows,
    first_windows,
    next_windows,
)

Table = dict[Window, float]


def costs_of(windows: list[Window], frames: int) -> npt.NDArray[np.float64]:
    """0.01 of the length and 0.02 of the total variation, the differences at both ends of the clip counted once."""
    found = []
    for a, b in windows:
        edges = [edge for edge in (a, b) if 0 < edge < frames]
        jumps = sum(1 if edge in (1, frames - 1) else 2 for edge in edges) if frames > 2 else 0
        found.append(0.01 * (b - a) + 0.02 * jumps)
    return np.array(found)


def smooth(seed: int, frames: int, first: int = 1, shortest: int = 1) -> Table:
    """Scores whose log-odds are a few slow waves over the two ends."""
    rng = np.random.default_rng(seed)
    windows = all_windows(frames, first, shortest)
    ends = np.array(windows, dtype=float) / frames
    logits = np.full(len(windows), rng.normal(0, 2))
    for _ in range(3):
        size, (one, two), turn = rng.normal(0, 2.5), rng.uniform(0, 1.2, 2), rng.uniform(0, 2 * math.pi)
        logits += size * np.cos(2 * math.pi * (one * ends[:, 0] + two * ends[:, 1]) + turn)
    return dict(zip(windows, (1 / (1 + np.exp(-logits))).tolist(), strict=True))


def search(table: Table, frames: int, count: int = 4) -> Table:
    """Search to the end; nothing is ever asked for twice."""
    windows = list(table)
    costs = costs_of(windows, frames)
    scores = {window: table[window] for window in first_windows(windows, frames)}
    while fresh := next_windows(windows, costs, scores, frames, count):
        assert 1 <= len(set(fresh)) == len(fresh) <= count
        assert not set(fresh) & set(scores)
        assert set(fresh) <= set(windows)
        scores.update((window, table[window]) for window in fresh)
        assert len(scores) <= MOST
    return scores


def totals(table: Table, frames: int) -> Table:
    windows = list(table)
    return dict(zip(windows, (costs_of(windows, frames) + np.array(list(table.values()))).tolist(), strict=True))


def test_all_windows_by_hand() -> None:
    assert all_windows(4, 1, 1) == [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert all_windows(4, 0, 2) == [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)]
    assert all_windows(2, 1, 1) == [(1, 2)]
    assert all_windows(2, 0, 2) == [(0, 2)]
    assert all_windows(1, 1, 1) == all_windows(1, 0, 2) == []
    assert len(all_windows(16, 1, 1)) == len(all_windows(16, 0, 2)) == 120
    assert len(set(all_windows(16, 0, 2))) == 120


def test_first_windows_by_hand() -> None:
    # (1, 3) is the middle half of four frames; (3, 4) lies sqrt(5) from it; of the rest each lies 1 from those chosen: in their order
    expected = [(1, 3), (3, 4), (1, 2), (1, 4), (2, 3), (2, 4)]
    assert first_windows(all_windows(4, 1, 1), 4) == expected
    assert first_windows([], 1) == []
    assert first_windows([(1, 2)], 2) == [(1, 2)]
    assert first_windows(all_windows(3, 1, 1), 3) == [(1, 2), (2, 3), (1, 3)]  # sqrt(2) away, then 1


@pytest.mark.parametrize(("first", "shortest"), [(1, 1), (0, 2)])
@pytest.mark.parametrize("frames", [8, 16, 32])
def test_first_windows_are_spread(frames: int, first: int, shortest: int) -> None:
    windows = all_windows(frames, first, shortest)
    chosen = first_windows(windows, frames)
    assert chosen[0] == (frames // 4, 3 * frames // 4)
    assert len(set(chosen)) == len(chosen) == FIRST
    assert first_windows(windows, frames) == chosen
    # each is as far from those before it as any window could be
    for index in range(1, FIRST):
        nearest = {window: min(math.dist(window, before) for before in chosen[:index]) for window in windows}
        assert nearest[chosen[index]] == pytest.approx(max(nearest.values()))
    assert max(min(math.dist(window, one) for one in chosen) for window in windows) <= frames / 3


def test_the_best_of_120_windows_is_found_with_few() -> None:
    scored, winners = [], set()
    for seed in range(40):
        table = smooth(seed, 16)
        expected, found = totals(table, 16), search(table, 16)
        winner = min(expected, key=expected.__getitem__)
        assert len(table) == 120
        assert min(expected[window] for window in found) == expected[winner]
        scored.append(len(found))
        winners.add(winner)
    assert max(scored) <= MOST
    assert np.mean(scored) < 20  # of 120
    assert len(winners) >= 10  # no test if the same window always wins


@pytest.mark.parametrize("frames", [2, 3, 4, 8, 32])
def test_other_lengths(frames: int) -> None:
    for (first, shortest), seed in itertools.product([(1, 1), (0, 2)], range(5)):
        table = smooth(seed, frames, first, shortest)
        expected, found = totals(table, frames), search(table, frames)
        assert min(expected[window] for window in found) <= min(expected.values()) + 0.01
        assert len(found) <= min(MOST, len(table))
        if len(table) <= FIRST:
            assert found.keys() == table.keys()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_batches_of_any_size_find_it_too(count: int) -> None:
    for seed in range(5):
        table = smooth(seed, 16)
        expected, found = totals(table, 16), search(table, 16, count)
        assert min(expected[window] for window in found) <= min(expected.values()) + 0.01


def test_no_more_than_most_windows_are_scored() -> None:
    # good and bad windows in the beginning of a clip: everything behind is worth a look, as long as there is one to have
    windows = all_windows(32, 1, 1)
    free = np.zeros(len(windows))
    begun = [window for window in windows if window[1] <= 10]
    for scored, wanted in [(MOST - 7, 5), (MOST - 3, 3), (MOST - 1, 1), (MOST, 0), (MOST + 1, 0)]:
        scores = {window: (0.2, 0.9)[index % 2] for index, window in enumerate(begun[:scored])}
        fresh = next_windows(windows, free, scores, 32, 5)
        assert len(fresh) == len(set(fresh)) == wanted
        assert all(stop > 10 for _, stop in fresh)


def test_nothing_to_gain_ends_at_once() -> None:
    windows = all_windows(16, 1, 1)
    first = first_windows(windows, 16)
    for level in (0.0, 1e-12, 0.3, 0.999):
        assert next_windows(windows, np.zeros(len(windows)), dict.fromkeys(first, level), 16, 4) == []
    # the cheapest window costs 0.03; one that costs 0.09 and leaves nothing beats all that keep a half
    scores = dict.fromkeys([*first, (8, 9)], 0.5) | {(15, 16): 0.0}
    assert next_windows(windows, costs_of(windows, 16), scores, 16, 4) == []


@pytest.mark.parametrize("level", [0.0, 0.2, 1.0])
def test_a_constant_score_leaves_the_cheapest_window(level: float) -> None:
    windows = all_windows(16, 1, 1)
    found = search(dict.fromkeys(windows, level), 16)
    costs = dict(zip(windows, costs_of(windows, 16).tolist(), strict=True))
    assert min(costs[window] for window in found) == pytest.approx(0.03)  # the last frame alone
    assert len(found) <= 12


def test_scores_of_exactly_0_and_1() -> None:
    # a step: the class is gone as soon as one frame is frozen. No smooth guess sees its edge; a window some frames too long will do
    for frame in range(1, 16):
        table = {(a, b): float(not a <= frame < b) for a, b in all_windows(16, 1, 1)}
        found = search(table, 16)
        assert set(found.values()) == {0.0, 1.0}
        expected = totals(table, 16)
        assert min(expected[window] for window in found) <= min(expected.values()) + 0.03


def test_planted_intervals_are_found() -> None:
    # the log-odds fall from 4 to -4 with the share of the interval that is frozen: every interval, at most two frames too many
    for interval in (windows := all_windows(16, 1, 1)):
        inside = set(range(*interval))
        table = {window: 1 / (1 + math.exp(8 * len(inside & set(range(*window))) / len(inside) - 4)) for window in windows}
        expected, found = totals(table, 16), search(table, 16)
        assert min(expected[window] for window in found) <= min(expected.values()) + 0.021


def test_windows_without_a_number_count_as_1() -> None:
    for seed in range(5):
        table = smooth(seed, 16)
        for window in first_windows(list(table), 16)[1::3]:
            table[window] = 1.0
        expected, found = totals(table, 16), search(table, 16)
        assert min(expected[window] for window in found) <= min(expected.values()) + 0.01


def test_nothing_is_asked_without_candidates_or_scores() -> None:
    windows = all_windows(4, 1, 1)
    costs = costs_of(windows, 4)
    assert next_windows(windows, costs, {}, 4, 4) == []
    assert next_windows([], np.zeros(0), {}, 1, 4) == []
    assert next_windows(windows, costs, {(1, 3): 0.9}, 4, 0) == []
    assert next_windows(windows, costs, dict.fromkeys(windows, 0.9), 4, 4) == []
    before = {(1, 3): 0.9, (3, 4): 0.2}
    assert next_windows(windows, costs, before, 4, 4)
    assert before == {(1, 3): 0.9, (3, 4): 0.2}


def test_the_search_is_deterministic_and_forgets_no_order() -> None:
    table = smooth(3, 16)
    one = search(table, 16)
    assert list(search(table, 16).items()) == list(one.items())
    windows = list(table)
    some = dict(list(one.items())[:FIRST])
    turned = dict(reversed(some.items()))
    assert next_windows(windows, costs_of(windows, 16), some, 16, 4) == next_windows(windows, costs_of(windows, 16), turned, 16, 4)


def test_what_is_promised_is_worth_a_pass() -> None:
    # log-odds of 2 and -2: what is not seen is guessed at 0.5, and the best so far is 0.12
    windows, scores = [(1, 2), (1, 3), (2, 3)], {(1, 2): 1 / (1 + math.exp(2)), (2, 3): 1 / (1 + math.exp(-2))}
    for cost, wanted in [(0.0, [(1, 3)]), (0.11, []), (1.0, [])]:  # the guess of 0.5 may be wrong, but not by that much
        assert next_windows(windows, np.array([0.0, cost, 0.0]), scores, 3, 4) == wanted
    assert next_windows(windows, np.array([1.0, 0.0, 1.0]), scores, 3, 4) == [(1, 3)]  # the best so far is 1.12


def test_log_odds_are_clipped() -> None:
    assert _log_odds(0.5) == 0.0
    assert _log_odds(0.75) == pytest.approx(math.log(3))
    limit = math.log((1 - CERTAIN) / CERTAIN)
    for low in (0.0, 1e-300, CERTAIN / 2):
        assert _log_odds(low) == pytest.approx(-limit)
        assert _log_odds(1.0 - low) == pytest.approx(limit)
    assert _log_odds(2 * CERTAIN) > -limit


def test_kernel_by_hand() -> None:
    apart = _distances(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 0.0], [0.0, 4.0]]))
    assert apart.tolist() == [[0.0, 4.0], [5.0, 3.0]]
    # (1 + sqrt(3) d) exp(-sqrt(3) d)
    assert _matern(np.array([0.0, 1.0 / math.sqrt(3), 1e3])).tolist() == pytest.approx([1.0, 2 / math.e, 0.0])


def test_the_posterior_interpolates() -> None:
    rng = np.random.default_rng(0)
    ends = np.array(all_windows(16, 1, 1), dtype=float)
    kernel = _matern(_distances(ends, ends) / (REACH * 16))
    seen = [0, 17, 40, 66, 95, 119]
    values = rng.normal(0, 1, len(seen))
    mean, deviation = _posterior(ends, seen, values, REACH * 16)
    assert mean[seen] == pytest.approx(values, abs=1e-3)
    assert deviation[seen] == pytest.approx(np.full(len(seen), math.sqrt(NOISE)), rel=0.01)
    others = np.setdiff1d(np.arange(120), seen)
    assert deviation[others].min() > 0.1
    assert deviation.max() <= 1.0
    # one point seen: k / (1 + noise) times its value, and the variance 1 - k^2 / (1 + noise)
    mean, deviation = _posterior(ends, [40], np.array([2.0]), REACH * 16)
    assert mean == pytest.approx(kernel[:, 40] * 2.0 / (1 + NOISE))
    assert deviation == pytest.approx(np.sqrt(1 - kernel[:, 40] ** 2 / (1 + NOISE)))
