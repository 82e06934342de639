"""The layer-wise picture: what every layer and pathway looks at, frame by frame (Patil 2022, figures of chapter 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import Frames
from chronolens.render.overlay import Heat, overlay, slender
from chronolens.render.text import BACKGROUND, GREY, WHITE, write

_TILE, _GAP, _MARGIN, _HEAD, _TITLE = 144, 4, 118, 34, 22
FILM_TILE, FILM_COLUMNS = 240, 4
"""Width of a tile of the film, and how many stand side by side."""


def layer_grid(
    frames: Frames,
    heats: Sequence[Heat],
    indices: Sequence[int] | npt.NDArray[np.int64],
    timestamps_s: Sequence[float] | npt.NDArray[np.float64],
    *,
    headline: str,
) -> Frames:
    """Draw one row a frame and one column a map, the frame itself first.

    A cell is empty where the map's pathway did not see the frame.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        heats: the maps, each scaled for itself.
        indices: (T,) frame numbers in the source.
        timestamps_s: (T,) seconds.
        headline: class and score.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    tile = round(_TILE * slender(*frames.shape[1:3]))
    height = _HEAD + _TITLE + len(frames) * (tile + _GAP)
    image = np.full((height, _MARGIN + (len(heats) + 1) * (_TILE + _GAP), 3), BACKGROUND, dtype=np.uint8)
    write(image, headline, 10, 23, 18, weight=600)
    for column, title in enumerate(["clip", *(heat.name for heat in heats)]):
        left = _MARGIN + column * (_TILE + _GAP)
        write(image[:, : left + _TILE], title, left, _HEAD + 14, 13, colour=GREY)
    for number, frame in enumerate(frames):
        top = _HEAD + _TITLE + number * (tile + _GAP)
        small = cv2.resize(frame, (_TILE, tile), interpolation=cv2.INTER_AREA).astype(np.uint8)
        cells = [small, *(overlay(small, heat.values[number]) if heat.seen[number] else None for heat in heats)]
        for column, cell in enumerate(cells):
            left = _MARGIN + column * (_TILE + _GAP)
            if cell is not None:
                image[top : top + tile, left : left + _TILE] = cell
        words = f"#{int(indices[number])}  {float(timestamps_s[number]):.2f} s"
        write(image[:, :_MARGIN], words, 10, top + tile // 2 + 5, 13, colour=WHITE)
    return image


def layer_film(frames: Frames, heats: Sequence[Heat], *, headline: str) -> Iterator[Frames]:
    """Yield one picture a frame: the frame and every map on it, all titled, of one even size.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        heats: the maps, each scaled for itself; where a pathway did not see a frame, its title says which it shows.
        headline: class and score.
    """
    tile = round(FILM_TILE * slender(*frames.shape[1:3]) / 2) * 2
    cells = len(heats) + 1
    columns, rows = min(cells, FILM_COLUMNS), -(-cells // FILM_COLUMNS)
    block = _TITLE + tile + _GAP
    size = ((_HEAD + rows * block + 1) // 2 * 2, columns * (FILM_TILE + _GAP) + _GAP)
    for number, frame in enumerate(frames):
        image = np.full((*size, 3), BACKGROUND, dtype=np.uint8)
        write(image, headline, _GAP, 23, 18, weight=600)
        small = cv2.resize(frame, (FILM_TILE, tile), interpolation=cv2.INTER_AREA).astype(np.uint8)
        shown = [(f"frame {number + 1}/{len(frames)}", small)]
        shown += [(heat.name + ("" if heat.seen[number] else " (nearest frame)"), overlay(small, heat.values[number])) for heat in heats]
        for place, (title, cell) in enumerate(shown):
            top = _HEAD + place // columns * block
            left = _GAP + place % columns * (FILM_TILE + _GAP)
            write(image[:, : left + FILM_TILE], title, left, top + 15, 13, colour=GREY)
            image[top + _TITLE : top + _TITLE + tile, left : left + FILM_TILE] = cell
        yield image
