"""The film that explains: original, heat map and perturbed clip side by side, class and score, strip of mask cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import Frames
from chronolens.render.overlay import Heat, colour_bar, opacity, overlay, slender
from chronolens.render.strip import OFF, ON, mask_strip
from chronolens.render.text import BACKGROUND, GREY, WHITE, text_width, write

HIGHEST, LOWEST = 360, 240
"""Height of a panel: smaller clips are enlarged to 240 px, larger ones reduced to 360 px."""

_GAP, _TOP, _STRIP, _LINE = 8, 56, 30, 20
_TITLE_ROOM = 60  # what the word "original" takes


@dataclass(frozen=True)
class PanelText:
    """Words on a panel.

    Args:
        headline: class and score, such as ``Moving something up  0.93``; the line above everything.
        details: lines below everything, such as the scores of the masks.
        titles: what stands over the original and over the perturbed clip; each heat map brings its own.
    """

    headline: str
    details: Sequence[str] = ()
    titles: tuple[str, str] = ("original", "perturbed")


def panel_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width of one panel for a frame of this size, both even."""
    rows = min(max(height, LOWEST), HIGHEST)
    return rows // 2 * 2, round(rows / slender(height, width) / 2) * 2


def panel_frames(
    frames: Frames,
    heats: Sequence[Heat],
    perturbed: Frames | None,
    mask: npt.NDArray[Any] | None,
    text: PanelText,
    timestamps_s: Sequence[float] | npt.NDArray[np.float64],
) -> Iterator[Frames]:
    """Yield one picture a frame, all of one even size.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        heats: a panel each.
        perturbed: (T, H, W, 3) uint8 RGB; without it there is no last panel.
        mask: (T,) in [0, 1], drawn under the last panel.
        text: words.
        timestamps_s: (T,) seconds, shown under the original.
    """
    size = panel_size(*frames.shape[1:3])
    over = [f"heat map, {heat.pathway} pathway" if heat.pathway else "heat map (Grad-CAM)" for heat in heats]
    base = _background(size, text, over, perturbed is not None)
    for number, frame in enumerate(frames):
        picture = base.copy()
        original = _resized(frame, size)
        tiles = [original, *(overlay(original, heat.values[number]) for heat in heats)]
        if perturbed is not None:
            tiles.append(_resized(perturbed[number], size))
        for place, tile in enumerate(tiles):
            left = _left(place, size)
            picture[_TOP : _TOP + size[0], left : left + size[1]] = tile
        if mask is not None and perturbed is not None:
            left, top = _left(len(tiles) - 1, size), _TOP + size[0] + 6
            picture[top : top + _STRIP, left : left + size[1]] = mask_strip(mask, size[1], _STRIP, number)
        _clock(picture, size, f"frame {number + 1}/{len(frames)}   {float(timestamps_s[number]):.2f} s")
        yield picture


def _left(place: int, size: tuple[int, int]) -> int:
    return _GAP + place * (size[1] + _GAP)


def _resized(frame: Frames, size: tuple[int, int]) -> Frames:
    method = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_LINEAR
    resized: Frames = cv2.resize(frame, (size[1], size[0]), interpolation=method).astype(np.uint8)
    return resized


def _background(size: tuple[int, int], text: PanelText, heats: list[str], has_mask: bool) -> Frames:
    """Everything that stays the same from frame to frame."""
    titles = [text.titles[0], *heats, *[text.titles[1]] * has_mask]
    below = _TOP + size[0] + 6
    legends = _STRIP + _LINE if has_mask else _LINE
    height = (below + legends + 6 + _LINE * len(text.details) + 1) // 2 * 2
    picture = np.full((height, _left(len(titles), size), 3), BACKGROUND, dtype=np.uint8)
    write(picture[:, :-_GAP], text.headline, _GAP, 22, 17, weight=600)
    for place, title in enumerate(titles):
        left = _left(place, size)
        write(picture[:, : left + size[1]], title, left, _TOP - 7, 14, colour=GREY)
    if heats:
        _heat_legend(picture[:, : _left(2, size) - _GAP], _left(1, size), below)
    if has_mask:
        _mask_legend(picture, _left(len(titles) - 1, size), below + _STRIP + 16)
    for number, detail in enumerate(text.details):
        write(picture[:, :-_GAP], detail, _GAP, below + legends + _LINE * number + 14, 14, colour=GREY)
    return picture


def _heat_legend(picture: Frames, left: int, top: int) -> None:
    """A bar from no heat to most heat, as it looks on a grey picture."""
    words = ("none", "most heat of the clip")
    start = left + text_width(words[0], 13) + 6
    width = max(20, min(120, picture.shape[1] - start - text_width(words[1], 13) - 8))
    values = np.linspace(0, 1, width)
    share = opacity(values)[:, None]
    bar = 128 * (1 - share) + colour_bar(values) * share
    picture[top : top + 14, start : start + width] = np.rint(bar).astype(np.uint8)[: picture.shape[1] - start]
    write(picture, words[0], left, top + 12, 13, colour=GREY)
    write(picture, words[1], start + width + 6, top + 12, 13, colour=GREY)


def _mask_legend(picture: Frames, left: int, baseline: int) -> None:
    for colour, height, word in ((ON, 12, "mask on"), (OFF, 4, "mask off")):
        picture[baseline - height + 1 : baseline + 1, left : left + 12] = colour
        write(picture, word, left + 17, baseline, 13, colour=GREY)
        left += 17 + text_width(word, 13) + 16


def _clock(picture: Frames, size: tuple[int, int], words: str) -> None:
    """Frame number and time, right above the first panel; left out where the title leaves no room."""
    left = _GAP + size[1] - text_width(words, 13)
    if left > _GAP + _TITLE_ROOM:
        write(picture[:, : _GAP + size[1]], words, left, _TOP - 7, 13, colour=WHITE)
