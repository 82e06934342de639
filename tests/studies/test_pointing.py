"""The pointing game on frames of 4 x 4 pixels, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from chronolens.studies.pointing import Array, point

TOP_LEFT = [0.0, 0.0, 0.5, 0.5]
MIDDLE = [0.25, 0.25, 0.75, 0.75]
NOWHERE = [0.0, 0.0, 0.0, 0.0]


def heat(*pixels: tuple[int, int, float]) -> Array:
    """A map of zeros but for (row, column, value)."""
    made = np.zeros((4, 4), np.float32)
    for row, column, value in pixels:
        made[row, column] = value
    return made


def boxes(*frames: list[list[float]]) -> Array:
    return np.array(frames)


def test_a_peak_inside_is_a_hit_and_one_outside_is_not() -> None:
    maps = np.stack([heat((1, 1, 3.0), (3, 3, 1.0)), heat((1, 1, 1.0), (3, 3, 3.0))])
    found = point(maps, boxes([TOP_LEFT], [TOP_LEFT]))
    # energy: 3/4 and 1/4; the box covers 4 of 16 pixels; the middle of the frame is where the box ends, so just outside
    assert found == {"frames": 2, "hits": 1, "centre_hits": 0, "energy": 0.5, "area": 0.25}


def test_the_middle_of_the_frame_is_the_guess_without_a_model() -> None:
    maps = np.stack([heat((0, 0, 1.0)), heat((1, 2, 1.0))])
    assert point(maps, boxes([MIDDLE], [MIDDLE])) == {"frames": 2, "hits": 1, "centre_hits": 2, "energy": 0.5, "area": 0.25}


def test_frames_without_boxes_are_left_out() -> None:
    maps = np.stack([heat((0, 0, 1.0)), heat((3, 3, 1.0)), heat((3, 3, 1.0))])
    found = point(maps, boxes([TOP_LEFT], [NOWHERE], [[0.3, 0.3, 0.3, 0.9]]))  # the last box has no width
    assert found == {"frames": 1, "hits": 1, "centre_hits": 0, "energy": 1.0, "area": 0.25}
    assert point(maps, boxes([NOWHERE], [NOWHERE], [NOWHERE])) == {
        "frames": 0, "hits": 0, "centre_hits": 0, "energy": None, "area": None,
    }  # fmt: skip


def test_a_frame_without_heat_is_a_miss() -> None:
    # argmax of zeros is the first pixel, which lies in the box; it must not count
    maps = np.stack([heat(), heat((0, 1, 2.0))])
    assert point(maps, boxes([TOP_LEFT], [TOP_LEFT])) == {"frames": 2, "hits": 1, "centre_hits": 0, "energy": 0.5, "area": 0.25}


def test_two_boxes_count_as_their_union() -> None:
    maps = heat((0, 0, 1.0), (2, 2, 5.0), (0, 3, 2.0))[None]
    found = point(maps, boxes([TOP_LEFT, MIDDLE]))
    # pixels: 4 + 4 less the one at (1, 1) that both cover; heat 1 + 5 of 8; the middle lies in the second box
    assert found == {"frames": 1, "hits": 1, "centre_hits": 1, "energy": 0.75, "area": 7 / 16}
    assert point(maps, boxes([NOWHERE, TOP_LEFT]))["area"] == 0.25


def test_even_heat_has_the_energy_of_the_area() -> None:
    found = point(np.ones((3, 4, 4), np.float32), boxes([TOP_LEFT], [MIDDLE], [[0.0, 0.0, 1.0, 0.75]]))
    assert found["energy"] == found["area"] == pytest.approx((0.25 + 0.25 + 0.75) / 3)
    assert found["hits"] == 2  # the middle of all pixels, rounded to (2, 2), lies in MIDDLE and in the last box


def test_the_peak_is_the_middle_of_a_plateau() -> None:
    plateau = [(row, column, 1.0) for row in (1, 2, 3) for column in (1, 2, 3)]
    maps = np.stack([heat(*plateau), heat(*plateau)])
    corner, core = [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75]
    assert point(maps, boxes([corner], [corner]))["hits"] == 0  # the first pixel of the plateau lies in it, its middle (2, 2) does not
    assert point(maps, boxes([core], [core]))["hits"] == 2


def test_maps_and_boxes_must_be_of_as_many_frames() -> None:
    with pytest.raises(ValueError):
        point(np.ones((2, 4, 4)), boxes([TOP_LEFT]))
