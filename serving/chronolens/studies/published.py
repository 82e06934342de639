"""Learned freeze masks beside published ones on the same clips: how long they are and whether they hold together.

The published masks belong to other weights, so the two need not agree; what can be compared is their shape.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chronolens.engine import Engine
from chronolens.errors import OptionsError
from chronolens.explain.segments import active
from chronolens.local import explain
from chronolens.studies.rows import Row, Rows, origin
from chronolens.studies.statistics import summary
from chronolens.studies.temporal import overlap

FILE, FRAMES = "file", "frames"


def read_reference(path: Path) -> list[dict[str, Any]]:
    """Read published masks: a JSON list of objects with ``file``, ``frames``, ``label`` and masks ``NAME_mask`` of 0 and 1.

    Raises:
        OptionsError: the file is not laid out like that.
    """
    try:
        listed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for entry in listed:
            lengths = {len(entry[key]) for key in entry if key.endswith("_mask")}
            if not isinstance(entry[FILE], str) or lengths != {entry[FRAMES]}:
                raise ValueError(f"a mask of {entry[FILE]} has not as many values as the clip frames")
        return listed
    except (ValueError, KeyError, TypeError) as error:
        raise OptionsError(f"{path.name} is not a list of published masks: {error!r}", pointer="/reference") from error


def compare(
    engine: Engine, model: str, reference: Path, *, rows: Path | None = None, report: Callable[[int, int], None] | None = None
) -> list[Row]:
    """Learn the freeze mask of every clip with a published one, for the predicted class.

    Clips of another number of frames than the model takes are left out: their masks cannot be laid side by side.

    Args:
        engine: holds the model.
        model: its name.
        reference: see :func:`read_reference`; files are relative to its folder.
        rows: JSON-lines file that keeps findings.
        report: told (done, total) after each clip.

    Raises:
        OptionsError: the reference cannot be read or has no mask of the model's length, or ``rows`` are of another origin.
        ClipError: a file cannot be used.
    """
    record = engine.load(model).record
    listed = [entry for entry in read_reference(reference) if entry[FRAMES] == record.clip.frames]
    if not listed:
        raise OptionsError(f"no published mask has {record.clip.frames} frames, as the model takes", pointer="/reference")
    found = Rows(rows, origin(engine, model), (FILE,))
    taken: list[Row] = []
    for entry in listed:
        taken.append(found.get(entry[FILE]) or found.add(_row(engine, model, reference.parent, entry)))
        if report is not None:
            report(len(taken), len(listed))
    return taken


def _row(engine: Engine, model: str, folder: Path, entry: dict[str, Any]) -> Row:
    result = explain(folder / entry[FILE], engine=engine, model=model, methods=["freeze"])
    published = {key.removesuffix("_mask"): entry[key] for key in entry if key.endswith("_mask")}
    return {
        FILE: entry[FILE],
        "label": entry.get("label"),
        "predicted": result.predictions[0].label,
        "score": result.scores.original,
        "freeze_score": result.scores.freeze,
        "masks": {"ours": [int(on) for on in result.masks["freeze"].active]} | published,
    }


def runs(mask: Sequence[int]) -> int:
    """Return the number of maximal runs of masked frames."""
    return sum(on and not before for before, on in itertools.pairwise([False, *active(mask)]))


def markdown(rows: Sequence[Row]) -> str:
    """Return one line for each kind of mask."""
    kinds = list(rows[0]["masks"]) if rows else []
    lines = ["| mask | clips | length | runs | of one run | empty | overlap with ours |", "|---|---|---|---|---|---|---|"]
    for kind in kinds:
        masks = [row["masks"][kind] for row in rows if kind in row["masks"]]
        lengths, counts = summary([sum(mask) for mask in masks]), [runs(mask) for mask in masks]
        shared = summary([overlap(row["masks"][kind], row["masks"]["ours"]) for row in rows if kind in row["masks"]])
        single = sum(count == 1 for count in counts) / len(masks)
        lines.append(
            f"| {kind} | {len(masks)} | {lengths['mean']:.1f} ± {lengths['sd'] or 0.0:.1f} | {sum(counts) / len(masks):.2f} | {single:.2f}"
            f" | {sum(count == 0 for count in counts)} | {shared['mean']:.2f} |"
        )
    return "\n".join(lines)
