"""Heat maps on real clips against boxes that people drew around hands and objects.

The layout is that of Something-Else (Materzynska et al. 2020), which annotates Something-Something V2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chronolens.clips import CellGrid, ClipSpec, DecodedClip
from chronolens.engine import Engine
from chronolens.errors import OptionsError
from chronolens.options import GradCamOptions
from chronolens.render.overlay import expand_steps, lay_on_clip
from chronolens.studies.pointing import finest_map, point
from chronolens.studies.statistics import interval_text, mean_interval
from chronolens.video.decode import decode_clip
from chronolens.video.prepare import crop_window, fit_frames

Boxes = npt.NDArray[np.float64]
Row = dict[str, Any]
KINDS = ("hand", "object", "any")


def read_boxes(path: Path) -> dict[str, dict[int, list[tuple[str, Boxes]]]]:
    """Read annotations in the layout of Something-Else.

    Returns:
        For each clip number, for each annotated frame counted from 0, its boxes: ``hand`` or ``object`` and x0, y0, x1, y1 in pixels.

    Raises:
        OptionsError: the file is not laid out like that.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return {
            clip: {int(Path(frame["name"]).stem) - 1: [_box(label) for label in frame["labels"]] for frame in frames}
            for clip, frames in listed.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionsError(f"{path.name} is not laid out like the boxes of Something-Else: {error!r}", pointer="/boxes") from error


def _box(label: dict[str, Any]) -> tuple[str, Boxes]:
    corners = [float(label["box2d"][key]) for key in ("x1", "y1", "x2", "y2")]
    return "hand" if label["standard_category"] == "hand" else "object", np.array(corners)


def pointing_rows(engine: Engine, model: str, folder: Path, boxes: Path) -> list[Row]:
    """Play the pointing game on every annotated clip of a folder, with the heat map of the predicted class.

    A clip belongs to an annotation when a part of its name between ``_``, ``-`` and ``.`` is the annotation's number. Only sampled frames
    that are annotated count.

    Args:
        engine: holds the model.
        model: its name.
        folder: with video files.
        boxes: annotations, see :func:`read_boxes`.

    Raises:
        OptionsError: the annotations cannot be read, or none belongs to a clip of the folder.
        ClipError: a file cannot be used.
    """
    annotated = read_boxes(boxes)
    rows = []
    for path in sorted(folder.iterdir()):
        words = path.stem.replace("-", "_").split("_")
        number = next((word for word in words if word in annotated), None)
        if number is not None and path.suffix.lower() in (".mp4", ".webm"):
            rows.append({"file": path.name, **_play(engine, model, path, annotated[number])})
    if not rows:
        raise OptionsError("no clip of the folder is annotated", pointer="/clips")
    return rows


def _play(engine: Engine, model: str, path: Path, frames: dict[int, list[tuple[str, Boxes]]]) -> Row:
    record = engine.load(model).record
    spec = record.clip
    clip = decode_clip(path, spec.frames, rule=spec.sampling, interval=spec.interval)
    arrays, facts = engine.look(model, fit_frames(clip.frames, spec), target=None, gradcam=GradCamOptions())
    name, maps = finest_map(arrays)
    grid = CellGrid(**facts["cells"][name])
    laid = expand_steps(lay_on_clip(maps, grid, spec.height, spec.width), spec.frames, grid)
    return {
        "predicted": record.classes[facts["target"]],
        "score": float(arrays["scores"].max()),
        **{kind: point(laid, _placed(clip, spec, frames, kind)) for kind in KINDS},
    }


def _placed(clip: DecodedClip, spec: ClipSpec, frames: dict[int, list[tuple[str, Boxes]]], kind: str) -> list[Boxes]:
    """Return the boxes of each sampled frame as fractions of what the model sees of it."""
    top, left, rows, columns = crop_window(clip.info.height, clip.info.width, spec)
    corner, size = np.array([left, top] * 2), np.array([columns, rows] * 2)
    placed = []
    for index in clip.indices.tolist():
        chosen = [(corners - corner) / size for what, corners in frames.get(index, []) if kind in (what, "any")]
        placed.append(np.stack(chosen) if chosen else np.zeros((0, 4)))
    return placed


def markdown(rows: Sequence[Row]) -> str:
    """Return one line for each kind of box, with bootstrap intervals over clips."""
    lines = [
        "| boxes | clips | frames | peak in a box | middle of the frame | heat in boxes | area of boxes |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        found = [row[kind] for row in rows if row[kind]["frames"]]
        hits = mean_interval([clip["hits"] / clip["frames"] for clip in found])
        centre = mean_interval([clip["centre_hits"] / clip["frames"] for clip in found])
        energy, area = (mean_interval([clip[key] for clip in found]) for key in ("energy", "area"))
        cells = [interval_text(hits), interval_text(centre), interval_text(energy), interval_text(area)]
        lines.append(f"| {kind} | {len(found)} | {sum(clip['frames'] for clip in found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
