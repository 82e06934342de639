"""Mask cells: colour and height say the value, the current frame stands out."""

from __future__ import annotations

import numpy as np
import pytest

from chronolens.render.strip import DIMMED, LOWEST, OFF, ON, cell_colour, cell_edges, mask_strip, masked_frames


def test_red_is_on_green_is_off_and_soft_values_lie_between() -> None:
    assert cell_colour(1.0) == ON
    assert cell_colour(0.0) == OFF
    assert cell_colour(0.5) == tuple(round((on + off) / 2) for on, off in zip(ON, OFF, strict=True))
    assert cell_colour(7.0) == ON
    assert ON[0] > 2 * ON[1]
    assert OFF[1] > 2 * OFF[0]


@pytest.mark.parametrize(("count", "width"), [(16, 320), (16, 101), (32, 160), (32, 30)])
def test_cells_cover_the_whole_width(count: int, width: int) -> None:
    edges = cell_edges(count, width)
    assert (edges[0], edges[-1], len(edges)) == (0, width, count + 1)
    assert np.all(np.diff(edges) >= 0)
    assert np.ptp(np.diff(edges)) <= 1


def test_every_cell_shows_its_value() -> None:
    mask = np.array([0.0, 1.0, 0.25, 0.9, 0.0])
    strip = mask_strip(mask, 100, 20)
    assert strip.shape == (20, 100, 3)
    for number, value in enumerate(mask):
        column = strip[:, number * 20 + 9]
        assert tuple(column[-1]) == cell_colour(value)
        height = int((column == column[-1]).all(axis=1).sum())
        assert height == round((LOWEST + (1 - LOWEST) * value) * 20)


def test_current_frame_is_bright_and_outlined() -> None:
    strip = mask_strip(np.ones(4), 80, 20, current=2)
    assert tuple(strip[10, 50]) == ON
    assert tuple(strip[10, 40]) == tuple(strip[0, 50]) == (255, 255, 255)
    for other in (10, 30, 70):
        assert tuple(strip[10, other]) == tuple(round(DIMMED * part) for part in ON)


def test_masked_frames_keep_the_picture_above_the_strip() -> None:
    frames = np.full((4, 160, 200, 3), 90, dtype=np.uint8)
    shown = list(masked_frames(frames, np.array([0.0, 1.0, 1.0, 0.0])))
    assert [frame.shape for frame in shown] == [(160, 200, 3)] * 4
    for number, frame in enumerate(shown):
        assert (frame[:150] == 90).all()
        assert tuple(frame[-2, number * 50 + 20]) == cell_colour([0, 1, 1, 0][number])
    assert (frames == 90).all()
