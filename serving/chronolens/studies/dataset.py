"""A whole data set explained: what the paper's tables say of I3D and C-LSTM, for any model and any folder of clips.

One JSON object a clip is kept, so that a study that was cut short goes on where it stopped.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chronolens.clips import ClipSpec
from chronolens.data.clips_folder import ClipFile, open_clips
from chronolens.engine import Engine
from chronolens.errors import ClipError
from chronolens.local import explain
from chronolens.schemas import ExplanationResult
from chronolens.studies.rows import Row, Rows, origin
from chronolens.studies.statistics import summary

Figures = dict[str, Any]
LEVEL = 0.1
"""A mask is better than chance when at most this share of windows of its length does as well."""
COLUMNS = ("drop_ratio", "drop_difference", "freeze_length", "freeze_runs", "reverse_length", "blob_count", "blob_size", "blob_distance")


def explain_split(
    engine: Engine,
    model: str,
    data: Path,
    out: Path,
    *,
    split: str = "test",
    seed: int = 0,
    limit: int | None = None,
    panels: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Explain the clips of a split for the class that the model predicts, and keep what the tables need.

    Args:
        engine: holds the model.
        model: its name.
        data: folder of class folders or a CSV file.
        out: folder for ``rows.jsonl`` and ``panels/``; rows that are there are not computed again.
        split: ``train``, ``val`` or ``test``.
        seed: of the division into splits.
        limit: number of clips, spread evenly over the split; all when None.
        panels: of so many clips, spread evenly, the panel is kept.
        report: told (done, total) after each clip.

    Raises:
        OptionsError: no such data, or rows in ``out`` of another origin.
    """
    source = open_clips(data, split, spec=ClipSpec(1, 1, 1), seed=seed, count=limit)
    (out / "panels").mkdir(parents=True, exist_ok=True)
    found = Rows(out / "rows.jsonl", origin(engine, model), ("file",))
    classes = engine.load(model).record.classes
    rows: list[Row] = []
    kept = {number * len(source.files) // panels for number in range(panels)}
    for number, file in enumerate(source.files):
        name = os.path.relpath(file.path, data if data.is_dir() else data.parent)
        safe = re.sub("[^A-Za-z0-9_-]+", "_", os.path.splitext(name)[0])
        panel = out / "panels" / f"{number:03d}-{safe}.mp4" if number in kept else None
        known = {"file": name, "label": file.label, "known": file.label in classes}
        rows.append(found.get(name) or found.add(known | _findings(engine, model, file, panel)))
        if report is not None:
            report(len(rows), len(source.files))
    return rows


def _findings(engine: Engine, model: str, file: ClipFile, panel: Path | None) -> Row:
    """Return what the tables need; of a clip that cannot be used only the ``error``."""
    try:
        if panel is None:
            return _row(explain(file.path, engine=engine, model=model))
        with tempfile.TemporaryDirectory() as folder:
            result = explain(file.path, out=folder, engine=engine, model=model, artefacts=["panel.mp4"])
            panel.write_bytes((Path(folder) / "panel.mp4").read_bytes())
        return _row(result)
    except ClipError as error:
        return {"error": error.code}


def _row(result: ExplanationResult) -> Row:
    freeze, reverse, blobs = result.masks["freeze"], result.masks["reverse"], result.gradcam[0].blobs
    return {
        "predicted": result.predictions[0].label,
        "score": result.scores.original,
        "freeze_score": result.scores.freeze,
        "reverse_score": result.scores.reverse,
        "reverse_learned_score": result.scores.reverse_learned,
        "fully_frozen_score": result.scores.fully_frozen,
        "fully_reversed_score": result.scores.fully_reversed,
        "drop_ratio": result.drop.ratio,
        "drop_difference": result.drop.difference,
        "freeze_active": [int(on) for on in freeze.active],
        "freeze_length": freeze.length,
        "freeze_runs": len(freeze.segments),
        "freeze_p": freeze.better_than_chance.p_value,
        "freeze_windows": freeze.better_than_chance.windows,
        "freeze_converged": freeze.converged,
        "reverse_active": [int(on) for on in reverse.active],
        "reverse_length": reverse.length,
        "reverse_p": reverse.better_than_chance.p_value,
        "blob_count": blobs.count_per_frame,
        "blob_size": blobs.mean_size_px,
        "blob_distance": blobs.mean_center_distance_px,
        "passes": result.passes.total,
        "seconds": result.timing_s["total"],
    }


def data_set_figures(rows: Sequence[Row]) -> Figures:
    """Return the figures of a study, over all clips and for each true label.

    Each of ``COLUMNS`` gets mean, sd, median and n; a ratio that is left out, or a clip without blobs, does not count in n. ``accuracy``:
    None when the labels are not classes of the model. ``scores``: means of OS, FS, RS, fully frozen, fully reversed.
    ``better_than_chance``: share of the freeze masks with p at most 0.1, among those with enough other windows of their length for it to
    get there (``judged``). ``empty``: freeze masks without a frame. ``unusable``: clips that gave no result.
    """
    usable = [row for row in rows if "error" not in row]
    labels = sorted({row["label"] for row in usable})
    groups = {"all": usable} | {label: [row for row in usable if row["label"] == label] for label in labels}
    return {name: _group(group) for name, group in groups.items() if group} | {"unusable": len(rows) - len(usable)}


def _group(rows: Sequence[Row]) -> Figures:
    judged = [row["freeze_p"] for row in rows if row["freeze_p"] is not None and 1 / (1 + row["freeze_windows"]) <= LEVEL]
    scores = {
        "OS": "score",
        "FS": "freeze_score",
        "RS": "reverse_score",
        "frozen": "fully_frozen_score",
        "reversed": "fully_reversed_score",
    }
    return {
        "clips": len(rows),
        "accuracy": sum(row["label"] == row["predicted"] for row in rows) / len(rows) if all(row["known"] for row in rows) else None,
        "scores": {name: summary([row[column] for row in rows])["mean"] for name, column in scores.items()},
        **{column: summary([row[column] for row in rows if row[column] is not None]) for column in COLUMNS},
        "better_than_chance": sum(p <= LEVEL for p in judged) / len(judged) if judged else None,
        "judged": len(judged),
        "converged": sum(row["freeze_converged"] for row in rows) / len(rows),
        "empty": sum(row["freeze_length"] == 0 for row in rows),
        "passes": summary([row["passes"] for row in rows])["mean"],
    }


def markdown(figures: Figures) -> str:
    """Return the figures as a table with one column a group."""
    names = [name for name in figures if name != "unusable"]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]

    def add(title: str, cell: Callable[[Figures], str]) -> None:
        lines.append(f"| {title} | " + " | ".join(cell(figures[name]) for name in names) + " |")

    add("clips", lambda group: str(group["clips"]))
    add("accuracy", lambda group: "-" if group["accuracy"] is None else f"{group['accuracy']:.2f}")
    add("OS, FS, RS", lambda group: ", ".join(f"{group['scores'][key]:.2f}" for key in ("OS", "FS", "RS")))
    add("fully frozen, fully reversed", lambda group: ", ".join(f"{group['scores'][key]:.2f}" for key in ("frozen", "reversed")))
    for column in COLUMNS:
        add(column.replace("_", " "), lambda group, column=column: _spread(group[column]))  # type: ignore[misc]
    add("freeze mask better than chance (p <= 0.1)", lambda group: _share(group["better_than_chance"], group["judged"]))
    add("freeze mask converged", lambda group: f"{group['converged']:.2f}")
    add("empty freeze masks", lambda group: str(group["empty"]))
    if figures["unusable"]:
        lines += ["", f"{figures['unusable']} clips could not be used."]
    return "\n".join(lines)


def _spread(found: Figures) -> str:
    if found["mean"] is None:
        return "-"
    spread = "" if found["sd"] is None else f" ± {found['sd']:.2f}"
    return f"{found['mean']:.2f}{spread} (median {found['median']:.2f}, n {found['n']})"


def _share(share: float | None, judged: int) -> str:
    return "-" if share is None else f"{share:.2f} of {judged}"
