"""Heat maps land where they belong; perturbations mix frames as the formulas say."""

from __future__ import annotations

import numpy as np
import pytest

from chronolens.clips import CellGrid
from chronolens.render.overlay import (
    STRONGEST,
    Heat,
    apply_matrix,
    colour_bar,
    expand_steps,
    fit,
    gradcam_frames,
    heat_shares,
    lay_on_clip,
    overlay,
    resize_heat,
    unit_range,
)


def test_steps_are_repeated() -> None:
    maps = np.arange(4).reshape(4, 1, 1)
    assert expand_steps(maps, 8).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert expand_steps(maps, 4).ravel().tolist() == [0, 1, 2, 3]
    assert expand_steps(maps[:3], 8).ravel().tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="expand"):
        expand_steps(maps[:0], 8)


def test_clip_is_scaled_as_a_whole() -> None:
    maps = np.array([[[1.0, -2.0]], [[4.0, 0.0]]])
    np.testing.assert_array_equal(unit_range(maps), [[[0.25, 0.0]], [[1.0, 0.0]]])
    assert not unit_range(np.full((2, 3, 3), -1.0)).any()
    assert not unit_range(np.zeros((2, 3, 3))).any()


@pytest.mark.parametrize("cells", [4, 7, 14])
def test_peaks_lie_in_the_middle_of_their_tile(cells: int) -> None:
    for row, column in ((0, 0), (1, 2), (cells - 1, cells - 1), (0, cells - 1)):
        heat = np.zeros((cells, cells))
        heat[row, column] = 1
        grown = resize_heat(heat, 224, 448)
        y, x = np.indices(grown.shape)
        inside = grown > 0.5
        tile_y, tile_x = (row + 0.5) * 224 / cells, (column + 0.5) * 448 / cells
        assert grown[int(tile_y), int(tile_x)] > 0.95
        if 0 < row < cells - 1 and 0 < column < cells - 1:
            assert y[inside].mean() + 0.5 == pytest.approx(tile_y, abs=0.6)
            assert x[inside].mean() + 0.5 == pytest.approx(tile_x, abs=0.6)


@pytest.mark.parametrize("cell", [(0, 0), (2, 3), (6, 6)])
def test_a_cell_is_drawn_where_it_looks(cell: tuple[int, int]) -> None:
    maps = np.zeros((1, 7, 7))
    maps[0][cell] = 1
    laid = lay_on_clip(maps, CellGrid((2, 16, 16), (1.5, 15.5, 15.5)), 112, 112)[0]
    place = (15.5 + 16 * cell[0], 15.5 + 16 * cell[1])  # beyond the last pixel for the last cell, whose window reaches over the edge
    peak = np.unravel_index(int(laid.argmax()), laid.shape)
    for found, expected in zip(peak, place, strict=True):
        assert abs(found + 0.5 - min(expected, 112)) <= 1 or (expected <= 15.5 and found <= 15)
    assert laid.max() == pytest.approx(1.0, abs=0.01)


def test_centred_cells_are_drawn_as_tiles() -> None:
    maps = np.random.default_rng(0).random((3, 7, 7))
    laid = lay_on_clip(maps, CellGrid((1, 16, 16), (0.5, 8, 8)), 112, 112)
    np.testing.assert_allclose(laid[1], resize_heat(maps[1], 112, 112), atol=0.02)


def test_shares_by_hand() -> None:
    maps = np.array([[[1.0]], [[3.0]]])
    assert heat_shares(expand_steps(maps, 4)).tolist() == [0.125, 0.125, 0.375, 0.375]
    assert heat_shares(np.zeros((2, 1, 1))).tolist() == [0, 0]


def test_flat_maps_stay_flat() -> None:
    for value in (0.0, 0.3, 1.0):
        grown = resize_heat(np.full((3, 5), value), 40, 60)
        assert grown.shape == (40, 60)
        np.testing.assert_allclose(grown, value, atol=1e-6)
    assert resize_heat(np.ones((1, 1)), 8, 8).tolist() == np.ones((8, 8)).tolist()


def test_no_heat_changes_nothing_and_full_heat_is_red() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    np.testing.assert_array_equal(overlay(frame, np.zeros((7, 7))), frame)
    hot = overlay(np.full((20, 30, 3), 128, dtype=np.uint8), np.ones((7, 7)))
    expected = np.rint(128 * (1 - STRONGEST) + colour_bar(np.ones(1))[0] * STRONGEST)
    np.testing.assert_allclose(hot[10, 10], expected, atol=1)
    assert hot[10, 10, 0] > hot[10, 10, 2]


def test_gradcam_frames_have_the_size_of_the_clip() -> None:
    frames = np.zeros((8, 1000, 500, 3), dtype=np.uint8)
    maps = np.zeros((2, 4, 4))
    maps[1] = 1
    shown = list(gradcam_frames(frames, [Heat("stage5", None, expand_steps(maps, 8), np.zeros(8), np.ones(8, bool))]))
    assert {frame.shape for frame in shown} == {(720, 360, 3)}
    assert [bool(frame.any()) for frame in shown] == [False] * 4 + [True] * 4


def test_fit_keeps_proportions() -> None:
    assert fit(np.zeros((720, 1280, 3), dtype=np.uint8), 360).shape == (360, 640, 3)
    small = np.zeros((100, 50, 3), dtype=np.uint8)
    assert fit(small, 360) is small


def clip(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.uint8)


def test_matrices_mix_frames() -> None:
    frames = clip(0, 100, 200)
    np.testing.assert_array_equal(apply_matrix(frames, np.eye(3)), frames)
    np.testing.assert_array_equal(apply_matrix(frames, np.eye(3)[::-1]), frames[::-1])
    mixed = apply_matrix(frames, np.array([[1, 0, 0], [0.5, 0.25, 0.25], [0, 0, 1]]))
    assert mixed[:, 0, 0, 0].tolist() == [0, 75, 200]
    with pytest.raises(ValueError, match="matrix"):
        apply_matrix(frames, np.eye(2))
