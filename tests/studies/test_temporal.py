"""When and where something moves in a synthetic clip, and how masks are held against it."""

from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np
import pytest

from chronolens.data.motion_truth import inside_boxes, motion_truth, moving_steps
from chronolens.data.synthetic import LABELS, make_clip
from chronolens.data.synthetic_scene import HOLD
from chronolens.sampling import sample_indices
from chronolens.studies.temporal import overlap, scattered_overlaps, window_overlaps

SECONDS = [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("interval", "moving"),
    [
        ((1.0, 3.0), [0, 0, 1, 1, 0]),  # the step (0, 1] only touches the start, (3, 4] only the end
        ((1.5, 1.6), [0, 0, 1, 0, 0]),  # between two frames: the later one shows that something moved
        ((0.9, 3.1), [0, 1, 1, 1, 1]),
        ((-5.0, 9.0), [0, 1, 1, 1, 1]),  # frame 0 has no step before it
        ((-5.0, 0.0), [0, 0, 0, 0, 0]),
        ((4.0, 9.0), [0, 0, 0, 0, 0]),
        ((3.9, 9.0), [0, 0, 0, 0, 1]),
    ],
)
def test_a_frame_moves_when_the_step_before_it_meets_the_interval(interval: tuple[float, float], moving: list[int]) -> None:
    found = moving_steps(SECONDS, *interval)
    assert found.dtype == np.bool_
    assert found.tolist() == [bool(step) for step in moving]


def test_one_frame_never_moves() -> None:
    assert moving_steps([0.5], 0.0, 1.0).tolist() == [False]


def test_overlap_by_hand() -> None:
    assert overlap([True, True, False, False], [False, True, True, False]) == pytest.approx(1 / 3)
    assert overlap([True, False, True, False], [True, False, True, False]) == 1.0
    assert overlap([True, False, False, False], [False, True, False, False]) == 0.0
    assert overlap([False, True, True, True], [False, True, False, False]) == pytest.approx(1 / 3)
    assert overlap([False] * 4, [False] * 4) == 0.0
    assert overlap([False] * 4, [True] * 4) == 0.0


def test_overlaps_of_windows_by_hand() -> None:
    truth = [False, True, True, False, False]
    assert window_overlaps(1, truth).tolist() == [0.5, 0.5, 0, 0]  # windows {1}, {2}, {3}, {4}: frame 0 is left out
    assert window_overlaps(2, truth) == pytest.approx([1.0, 1 / 3, 0.0])  # {1, 2}, {2, 3}, {3, 4}
    assert window_overlaps(3, truth) == pytest.approx([2 / 3, 1 / 4])
    assert window_overlaps(4, truth).tolist() == [0.5]  # {1, ..., 4} is all that is left without frame 0
    assert window_overlaps(5, truth).tolist() == [0.4]  # no room: frame 0 takes part
    assert set(window_overlaps(0, truth).tolist()) == {0.0}


def test_scattered_overlaps_have_the_hypergeometric_mean() -> None:
    truth = np.zeros(16, dtype=np.bool_)
    truth[4:10] = True
    found = scattered_overlaps(5, truth, draws=3000)
    # five of the frames 1 to 15, six of which move: k hits have the overlap k / (5 + 6 - k)
    expected = sum(comb(6, k) * comb(9, 5 - k) / comb(15, 5) * k / (11 - k) for k in range(6))
    assert found.shape == (3000,)
    assert found.mean() == pytest.approx(expected, abs=0.01)
    assert set(np.round(found, 9)) <= {round(k / (11 - k), 9) for k in range(6)}


def test_scattered_frames_leave_out_frame_0_as_long_as_there_is_room() -> None:
    first_only = [True, False, False, False]
    assert set(scattered_overlaps(3, first_only).tolist()) == {0.0}
    assert set(scattered_overlaps(4, first_only).tolist()) == {0.25}
    assert set(scattered_overlaps(3, [False, True, True, True]).tolist()) == {1.0}
    assert set(scattered_overlaps(0, [False, True, True, True]).tolist()) == {0.0}


def test_scattered_overlaps_are_seeded() -> None:
    truth = [False] * 4 + [True] * 4
    one, again, other = (scattered_overlaps(3, truth, draws=20, seed=seed).tolist() for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("index", range(16))
def test_moving_says_on_which_frames_the_scene_has_gone_on(index: int) -> None:
    clip = make_clip("test", index)
    truth = motion_truth(clip, 16)
    times = sample_indices(clip.total, 16) / 12
    if clip.label == HOLD:
        assert truth.what == "none"
        assert not truth.moving.any()
        return
    assert truth.what == ("camera" if "camera" in clip.label else "object")
    gone_on = np.diff(clip.scene.progress(times)) > 0
    assert truth.moving.tolist() == [False, *gone_on.tolist()]
    start, end = clip.record()["motion_s"]
    meets = [max(before, start) < min(after, end) for before, after in pairwise(times)]
    assert truth.moving.tolist() == [False, *meets]
    assert 0 < truth.moving.sum() < 16


def test_boxes_are_those_of_the_record_where_something_moves() -> None:
    clip = make_clip("test", 0)
    truth = motion_truth(clip, 16)
    recorded = np.array(clip.record()["boxes"])
    numbers = sample_indices(clip.total, 16)
    assert truth.boxes.shape == (16, len(recorded), 4) == (16, 2, 4)
    for step, number in enumerate(numbers):
        expected = recorded[:, number] if truth.moving[step] else np.zeros((2, 4))
        assert np.array_equal(truth.boxes[step], expected)
    assert (truth.boxes[truth.moving] > 0).any()


def test_nothing_moves_where_something_is_held() -> None:
    truth = motion_truth(make_clip("test", LABELS.index(HOLD)), 16)
    assert (truth.what, truth.moving.tolist(), truth.boxes.any()) == ("none", [False] * 16, False)


def test_pixels_are_inside_by_their_middle() -> None:
    # the middles of four pixels lie at 1/8, 3/8, 5/8 and 7/8
    quarter = np.array([[0.25, 0.25, 0.75, 0.5]])
    assert inside_boxes(quarter, 4, 4).astype(int).tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    borders = np.array([[0.125, 0.0, 0.375, 1.0]])  # begins on a middle, which is in, and ends on one, which is not
    assert inside_boxes(borders, 2, 4).astype(int).tolist() == [[1, 0, 0, 0]] * 2
    between = np.array([[0.15, 0.15, 0.35, 0.35]])
    assert not inside_boxes(between, 4, 4).any()


def test_boxes_unite_and_no_box_covers_nothing() -> None:
    two = np.array([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 0.5]])
    assert inside_boxes(two, 4, 4).astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert inside_boxes(np.array([[0.0, 0.0, 1.0, 1.0]]), 3, 5).all()
    assert not inside_boxes(np.zeros((2, 4)), 4, 4).any()
    assert not inside_boxes(np.zeros((0, 4)), 4, 4).any()
