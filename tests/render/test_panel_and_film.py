"""Panels and filmstrips: parts in their places, sizes that a video can have, any words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from chronolens.render.film import filmstrip
from chronolens.render.overlay import Heat, expand_steps, heat_shares
from chronolens.render.panel import PanelText, panel_frames, panel_size
from chronolens.render.strip import ON, cell_colour
from chronolens.render.text import shorten, text_width

TEXT = PanelText("Moving something up  0.93", ["original 0.93   frozen 0.10"], ("original", "freeze mask"))


def heats(maps: np.ndarray, count: int) -> list[Heat]:
    values = expand_steps(maps, count)
    return [Heat("stage5", None, values, heat_shares(values), np.ones(count, bool))]


def clip(count: int = 8, height: int = 240, width: int = 320) -> np.ndarray:
    values = (40 + 10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, height, width, 3)).copy()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (240, 320, (240, 320)),
        (120, 160, (240, 320)),
        (720, 1280, (360, 640)),
        (255, 341, (254, 340)),
        (16, 4096, (240, 960)),
        (2160, 16, (360, 90)),
    ],
)
def test_panel_sizes(height: int, width: int, expected: tuple[int, int]) -> None:
    assert panel_size(height, width) == expected


def test_three_panels_in_their_places() -> None:
    frames = clip()
    heat = np.zeros((4, 7, 7))
    heat[3] = 1
    mask = np.array([0, 0, 1, 1, 0.5, 0, 0, 0])
    shown = list(panel_frames(frames, heats(heat, 8), 255 - frames, mask, TEXT, np.arange(8) / 4))
    assert len({frame.shape for frame in shown}) == 1
    assert all(side % 2 == 0 for side in shown[0].shape[:2])
    for number, frame in enumerate(shown):
        value = 40 + 10 * number
        assert (frame[56:296, 8:328] == value).all()
        assert (frame[56:296, 664:984] == 255 - value).all()
        assert (frame[56:296, 336:656] == value).all() == (number < 6)
        assert tuple(frame[330, 664 + number * 40 + 15]) == cell_colour(mask[number])


def test_what_was_not_asked_for_is_left_out() -> None:
    frames, heat, mask = clip(), np.ones((8, 7, 7)), np.ones(8)
    times = np.arange(8) / 4
    both = next(panel_frames(frames, heats(heat, 8), frames, mask, TEXT, times))
    only_heat = next(panel_frames(frames, heats(heat, 8), None, None, TEXT, times))
    only_mask = next(panel_frames(frames, [], frames, mask, TEXT, times))
    alone = next(panel_frames(frames, [], None, None, TEXT, times))
    assert [frame.shape[1] for frame in (both, only_heat, only_mask, alone)] == [992, 664, 664, 336]
    assert (only_mask[302:332, 336:656] == ON).all(axis=-1).any()


@pytest.mark.parametrize(("height", "width"), [(400, 64), (64, 400), (16, 16), (97, 131)])
def test_any_shape_and_any_words(height: int, width: int) -> None:
    text = PanelText("Füße <b>日本</b> \x1b[31m" + "x" * 500, ["y" * 300] * 4)
    frames = clip(3, height, width)
    shown = list(panel_frames(frames, heats(np.ones((1, 2, 2)), 3), frames, np.zeros(3), text, [0.0, 0.5, 1000.25]))
    assert len({frame.shape for frame in shown}) == 1
    assert all(side % 2 == 0 for side in shown[0].shape[:2])


def test_text_is_cut_to_its_room() -> None:
    assert shorten("short", 14, 500) == "short"
    cut = shorten("a very long label of a class " * 5, 14, 120)
    assert cut.endswith("...")
    assert text_width(cut, 14) <= 120
    assert shorten("a\x1bb\nc", 14, 500) == "a b c"


def test_filmstrip_of_sixteen_and_thirty_two() -> None:
    for count, rows in ((4, 1), (16, 1), (32, 2)):
        frames, mask = clip(count, 48, 64), np.linspace(0, 1, count)
        heat = np.zeros((count, 7, 7))
        heat[0] = 1
        masks = {"freeze": mask, "reverse": 1 - mask}
        image = filmstrip(frames, heats(heat, count), masks, np.arange(count) * 3, np.arange(count) / 8, headline="up")
        alone = filmstrip(frames, [], {}, np.arange(count), np.arange(count) / 8, headline="up")
        assert image.shape[1] == alone.shape[1] == 78 + min(count, 16) * 116 + 4
        assert image.shape[0] == 34 + rows * (84 + 4 + 84 + 4 + 36 + 2 * 26 + 34 + 4 + 8)
        assert (image[34:118, 78:190] == 40).all()
        freeze_top = 34 + 84 + 4 + 84 + 4 + 36 + 4
        assert tuple(image[freeze_top + 21, 80]) == cell_colour(0.0)
        assert tuple(image[freeze_top + 26 + 21, 80]) == cell_colour(1.0)


def test_flat_heat_has_no_bars_but_no_trouble() -> None:
    image = filmstrip(clip(4, 48, 64), heats(np.zeros((4, 7, 7)), 4), {}, range(4), [0.0, 0.1, 0.2, 0.3], headline="")
    assert image.dtype == np.uint8


def test_rendering_needs_no_torch() -> None:
    code = "import sys, chronolens.render.panel, chronolens.render.film, chronolens.video.decode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
