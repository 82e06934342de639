"""The layer-wise picture: a row a frame, a column a map, gaps where a pathway did not see the frame."""

from __future__ import annotations

import numpy as np

from chronolens.clips import CellGrid
from chronolens.render.layer_grid import FILM_COLUMNS, FILM_TILE, layer_film, layer_grid
from chronolens.render.overlay import Heat, expand_steps, heat_shares, on_picture, overlay
from chronolens.render.text import BACKGROUND


def frames(count: int = 8) -> np.ndarray:
    values = (40 + 10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, 72, 144, 3)).copy()


def heat(name: str, pathway: str | None, maps: np.ndarray, picked: tuple[int, ...] | None = None) -> Heat:
    grid = CellGrid((1, 1, 1), (0.5, 0.5, 0.5), frames=picked)
    values = expand_steps(maps, 8, grid)
    seen = np.ones(8, bool) if picked is None else np.isin(np.arange(8), picked)
    return Heat(name, pathway, values, heat_shares(values), seen)


def test_a_cell_for_each_frame_and_map() -> None:
    clip = frames()
    maps = np.zeros((8, 3, 3))
    maps[5] = 1
    slow = heat("stage5", "slow", np.ones((2, 3, 3)), (0, 7))
    image = layer_grid(clip, [heat("stage5", "fast", maps), slow], np.arange(8) * 3, np.arange(8) / 4, headline="up  0.9")
    assert image.shape == (34 + 22 + 8 * (72 + 4), 118 + 3 * 148, 3)
    for number in range(8):
        top = 56 + number * 76
        cells = [image[top : top + 72, 118 + column * 148 : 118 + column * 148 + 144] for column in range(3)]
        assert (cells[0] == 40 + 10 * number).all()
        assert np.array_equal(cells[1], overlay(clip[number], maps[number]))
        if number in (0, 7):
            assert np.array_equal(cells[2], overlay(clip[number], np.ones((3, 3))))
        else:
            assert (cells[2] == BACKGROUND).all()


def test_the_film_shows_every_map_on_every_frame() -> None:
    maps = np.arange(8.0)[:, None, None] / 7 * np.ones((8, 2, 2))
    heats = [heat(f"stage{number}", None, maps) for number in range(1, 6)]
    shown = list(layer_film(frames(), heats, headline="up"))
    assert len(shown) == 8
    assert {picture.shape for picture in shown} == {((34 + 2 * (22 + 120 + 4) + 1) // 2 * 2, FILM_COLUMNS * (FILM_TILE + 4) + 4, 3)}
    last = shown[-1]
    assert (last[34 + 22 : 34 + 22 + 120, 4 : 4 + FILM_TILE] == 110).all()
    expected = overlay(np.full((120, 240, 3), 110, np.uint8), maps[-1])
    assert np.array_equal(last[56:176, 4 + 244 : 4 + 244 + 240], expected)
    assert np.array_equal(last[34 + 146 + 22 : 34 + 146 + 22 + 120, 4 : 4 + 240], expected)  # the fourth map begins the second row


def test_a_cropped_map_lies_on_its_part_of_the_picture() -> None:
    maps = np.ones((2, 10, 10), np.float32)
    whole = on_picture(maps, (5.0, 20.0, 20.0, 20.0), 30, 60)
    assert whole.shape == (2, 15, 30)
    assert whole.sum() == 2 * 100
    rows, columns = np.nonzero(whole[0])
    # half a pixel of the map for each of the picture: rows 5 to 25 are 2.5 to 12.5
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 11, 10, 19)
    assert on_picture(maps, (0.0, 0.0, 30.0, 60.0), 30, 60) is maps


def test_a_small_picture_that_a_model_enlarges_costs_no_more_than_itself() -> None:
    maps = np.ones((2, 224, 224), np.float32)
    whole = on_picture(maps, (1.0, 2000.0, 14.0, 14.0), 16, 4096)  # 14 pixels of the picture were enlarged to 224
    assert whole.shape == (2, 16, 4096)
    assert whole[0].sum() == 14 * 14
    assert whole[0, 1:15, 2000:2014].all()


def test_slender_pictures_are_squeezed_to_tiles() -> None:
    tall, wide = np.zeros((2, 2160, 16, 3), np.uint8), np.zeros((2, 16, 4096, 3), np.uint8)
    for clip, rows in ((tall, 4 * 144), (wide, 36)):
        one = Heat("stage5", None, np.ones((2, 2, 2)), np.full(2, 0.5), np.ones(2, bool))
        assert layer_grid(clip, [one], [0, 1], [0.0, 0.1], headline="").shape[0] == 34 + 22 + 2 * (rows + 4)
        (picture, _) = layer_film(clip, [one], headline="")
        assert max(picture.shape) < 1100
