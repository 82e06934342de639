"""Heat maps against boxes around what moves: the pointing game (Zhang et al. 2016) and the share of heat inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from chronolens.data.motion_truth import inside_boxes

Array = npt.NDArray[Any]


class Pointing(TypedDict):
    """How a clip's heat maps fit its boxes, over ``frames`` frames that have a box.

    hits: frames whose highest pixel lies in a box. centre_hits: frames whose middle does, the guess that needs no model. energy: mean share
    of a frame's heat inside its boxes. area: mean share of the frame that the boxes cover, what heat spread evenly would give both.
    """

    frames: int
    hits: int
    centre_hits: int
    energy: float | None
    area: float | None


def finest_map(arrays: Mapping[str, Array]) -> tuple[str, Array]:
    """Return layer and values (T', h, w) of the map with most steps, out of an engine's arrays: of several pathways one is judged."""
    found = {name.removeprefix("map/"): maps for name, maps in arrays.items() if name.startswith("map/")}
    return max(found.items(), key=lambda one: len(one[1]))


def point(maps: Array, boxes: Sequence[Array] | Array) -> Pointing:
    """Play the pointing game, without tolerance around the boxes.

    The peak is the middle of the highest pixels: a map that is enlarged smoothly from its cells has a plateau there. A frame without any
    heat is a miss with no heat inside.

    Args:
        maps: (T, H, W) not negative, one for each frame, laid on the clip (see ``render.overlay.lay_on_clip``).
        boxes: for each frame (B, 4) x0, y0, x1, y1 as fractions of the frame; frames without a box that covers a pixel are left out.
    """
    _, height, width = maps.shape
    hits, centres = 0, 0
    energy: list[float] = []
    area: list[float] = []
    for heat, frame in zip(maps, boxes, strict=True):
        inside = inside_boxes(frame, height, width)
        if not inside.any():
            continue
        total = float(heat.sum(dtype=np.float64))
        hits += total > 0 and bool(inside[_peak(heat)])
        centres += any(x0 <= 0.5 < x1 and y0 <= 0.5 < y1 for x0, y0, x1, y1 in frame)
        energy.append(float(heat[inside].sum(dtype=np.float64)) / total if total > 0 else 0.0)
        area.append(float(inside.mean()))
    return {
        "frames": len(energy),
        "hits": hits,
        "centre_hits": centres,
        "energy": float(np.mean(energy)) if energy else None,
        "area": float(np.mean(area)) if area else None,
    }


def _peak(heat: Array) -> tuple[int, int]:
    rows, columns = np.nonzero(heat == heat.max())
    return int(rows.mean().round()), int(columns.mean().round())
