"""Intervals and p-values against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from chronolens.studies.statistics import DRAWS, chance_p_value, mean_interval, summary


def test_equal_values_leave_no_doubt() -> None:
    assert mean_interval([0.25] * 7) == {"mean": 0.25, "low": 0.25, "high": 0.25, "n": 7}
    assert mean_interval([3.0]) == {"mean": 3.0, "low": 3.0, "high": 3.0, "n": 1}


def test_no_values_have_no_interval() -> None:
    assert mean_interval([]) == {"mean": None, "low": None, "high": None, "n": 0}


def test_two_values_resampled_reach_from_one_to_the_other() -> None:
    # the mean of a resample is 0, 1/2 or 1 with probability 1/4, 1/2 and 1/4: the 2.5 % quantiles are the values themselves
    assert mean_interval([0.0, 1.0]) == {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 2}


def test_the_interval_is_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(1).normal(4.0, 2.0, 400)
    found = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert found["mean"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_four_times_the_values_halve_the_interval() -> None:
    values = np.random.default_rng(2).random(50)
    few, many = (mean_interval(np.tile(values, times)) for times in (1, 4))
    assert (many["n"], many["mean"]) == (200, pytest.approx(few["mean"]))
    assert (many["high"] - many["low"]) / (few["high"] - few["low"]) == pytest.approx(0.5, abs=0.05)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    intervals = [mean_interval(rng.random(30), seed=trial) for trial in range(120)]
    covered = sum(found["low"] <= 0.5 <= found["high"] for found in intervals)
    assert 105 <= covered < 120  # 114 are expected, the standard deviation is 2.4


def test_the_seed_decides_the_resampling() -> None:
    values = np.random.default_rng(4).random(20)
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5)
    assert mean_interval(values, seed=5)["low"] != mean_interval(values, seed=6)["low"]
    assert mean_interval(values, seed=5)["mean"] == mean_interval(values, seed=6)["mean"]


def test_p_is_the_probability_of_drawing_the_best_everywhere() -> None:
    clip = np.array([0.0, 0.2, 0.7])
    for clips in (1, 2, 3):  # only the draw of all maxima reaches the observed mean
        chance = (1 / 3) ** clips
        found = chance_p_value([0.7] * clips, [clip] * clips)
        assert found == pytest.approx(chance, abs=5 * (chance * (1 - chance) / DRAWS) ** 0.5)


def test_p_counts_draws_of_the_mean_not_of_single_clips() -> None:
    # the sum of two fair coins is at least 1 in three of four draws
    assert chance_p_value([1.0, 0.0], [np.array([0.0, 1.0])] * 2) == pytest.approx(0.75, abs=0.025)


def test_p_is_least_when_chance_never_gets_there() -> None:
    assert chance_p_value([0.9], [np.array([0.1, 0.8])]) == 1 / (1 + DRAWS)


def test_p_is_one_when_chance_is_never_lower() -> None:
    assert chance_p_value([0.1, 0.3], [np.array([0.1, 0.2]), np.array([0.3])]) == 1.0  # equal counts as reached
    assert chance_p_value([0.1] * 10, [np.array([0.1])] * 10) == 1.0  # though tenths added one by one do not reach 1 in binary


def test_p_of_nothing_is_none_and_p_is_seeded() -> None:
    assert chance_p_value([], []) is None
    several = [np.linspace(0, 1, 7)] * 4
    assert chance_p_value([0.7] * 4, several, seed=1) == chance_p_value([0.7] * 4, several, seed=1)
    assert chance_p_value([0.7] * 4, several, seed=1) != chance_p_value([0.7] * 4, several, seed=2)


def test_summary_by_hand() -> None:
    assert summary([1.0, 2.0, 6.0]) == {"mean": 3.0, "sd": pytest.approx(7**0.5), "median": 2.0, "n": 3}  # (4 + 1 + 9) / 2
    assert summary([4.0]) == {"mean": 4.0, "sd": None, "median": 4.0, "n": 1}
    assert summary([]) == {"mean": None, "sd": None, "median": None, "n": 0}
