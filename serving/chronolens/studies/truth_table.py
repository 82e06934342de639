"""The figures of a truth test out of its rows, and as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chronolens.explain.segments import length
from chronolens.studies.rows import Row
from chronolens.studies.statistics import Interval, chance_p_value, mean_interval
from chronolens.studies.temporal import overlap, scattered_overlaps, window_overlaps
from chronolens.studies.truth import HEAT_MAPS, MASKS, mask_overlap

Figures = dict[str, Any]


def truth_figures(rows: Sequence[Row]) -> Figures:
    """Return the figures of a truth test.

    Returns:
        ``heat_maps``: for each method its figures over clips whose objects move, and over clips whose camera moves. ``masks``: for each
        method ``overlap`` with the motion (mean and bootstrap interval over clips) beside what chance gives. ``per_clip``: for each
        method, by clip number, the overlap of the mask or the share of frames whose peak lies in a box.
    """
    heat = {method: [row for row in rows if row["method"] == method] for method in HEAT_MAPS}
    masks = {method: [row for row in rows if row["method"] == method] for method in MASKS}
    judged = next((found for found in heat.values() if found), [])
    return {
        "clips": len({row["index"] for row in rows}),
        "right": sum(row["right"] for row in judged) if judged else None,
        "heat_maps": {method: heat_figures(found) for method, found in heat.items() if found},
        "masks": {method: mask_figures(found, rows) for method, found in masks.items() if found},
        "per_clip": {method: {str(row["index"]): _of_clip(row) for row in found} for method, found in (heat | masks).items() if found},
    }


def _of_clip(row: Row) -> float | None:
    if "values" in row:
        return round(mask_overlap(row), 4)
    found = row["pointing"]
    return round(found["hits"] / found["frames"], 4) if found["frames"] else None


def heat_figures(rows: Sequence[Row]) -> Figures:
    """Return the pointing game and the energy of one kind of heat map, for moving objects and for a moving camera."""
    return {what: _pointing([row for row in rows if row["what"] == what]) for what in ("object", "camera")}


def _pointing(rows: Sequence[Row]) -> Figures:
    found = [row["pointing"] for row in rows if row["pointing"]["frames"]]
    frames = sum(clip["frames"] for clip in found)
    return {
        "clips": len(found),
        "frames": frames,
        "hits_of_frames": sum(clip["hits"] for clip in found) / frames if frames else None,
        "pointing": mean_interval([clip["hits"] / clip["frames"] for clip in found]),
        "centre": mean_interval([clip["centre_hits"] / clip["frames"] for clip in found])["mean"],
        "energy": mean_interval([clip["energy"] for clip in found]),
        "area": mean_interval([clip["area"] for clip in found])["mean"],
        "heat_while_moving": mean_interval([row["heat_while_moving"] for row in rows if row["heat_while_moving"] is not None]),
        "share_of_frames_moving": mean_interval([float(np.mean(row["moving"])) for row in rows])["mean"],
    }


def mask_figures(rows: Sequence[Row], everything: Sequence[Row]) -> Figures:
    """Return the figures of one kind of mask.

    ``overlap``: temporal intersection over union with the motion. ``chance_window`` and ``chance_scattered``: what windows, and random
    sets of frames, of the same lengths reach on average, each with ``p``, the probability that they reach as much as the masks.
    ``against_best_window``: difference to the overlap of the best contiguous window (preset ``exhaustive``) on the same clips.
    ``overlap_right``: on the clips that the model classifies rightly.
    """
    right = {row["index"] for row in everything if row["method"] in HEAT_MAPS and row["right"]}
    overlaps = [mask_overlap(row) for row in rows]
    lengths = [length(row["values"]) for row in rows]
    windows = [window_overlaps(n, row["moving"]) for n, row in zip(lengths, rows, strict=True)]
    scattered = [scattered_overlaps(n, row["moving"], seed=row["index"]) for n, row in zip(lengths, rows, strict=True)]
    objectives = [row["objective"]["total"] for row in rows if row["objective"]["total"] is not None]
    return {
        "overlap": mean_interval(overlaps),
        "overlap_right": mean_interval([value for value, row in zip(overlaps, rows, strict=True) if row["index"] in right]),
        "chance_window": {"mean": float(np.mean([w.mean() for w in windows])), "p": chance_p_value(overlaps, windows)},
        "chance_scattered": {"mean": float(np.mean([s.mean() for s in scattered])), "p": chance_p_value(overlaps, scattered)},
        "against_best_window": _against_best(rows, everything),
        "all_frames": float(np.mean([overlap([False] + [True] * (len(row["moving"]) - 1), row["moving"]) for row in rows])),
        "length": float(np.mean(lengths)),
        "moving": float(np.mean([sum(row["moving"]) for row in rows])),
        "empty": sum(n == 0 for n in lengths),
        "converged": float(np.mean([row["converged"] for row in rows])),
        "objective": mean_interval(objectives),
        "passes": float(np.mean([row["passes"] for row in rows])),
    }


def _against_best(rows: Sequence[Row], everything: Sequence[Row]) -> Interval:
    operator = rows[0]["method"].split("/")[0]
    best = {row["index"]: mask_overlap(row) for row in everything if row["method"] == f"{operator}/exhaustive"}
    return mean_interval([mask_overlap(row) - best[row["index"]] for row in rows if row["index"] in best])


def markdown(figures: Figures) -> str:
    """Return both tables."""
    lines = ["| mask | clips | overlap with the motion | windows by chance (p) | scattered (p) | minus best window | length | passes |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for method, found in figures["masks"].items():
        window, scattered = found["chance_window"], found["chance_scattered"]
        lines.append(
            f"| {method} | {found['overlap']['n']} | {_interval(found['overlap'])} | {window['mean']:.2f} ({_p(window['p'])})"
            f" | {scattered['mean']:.2f} ({_p(scattered['p'])}) | {_interval(found['against_best_window'], '+')}"
            f" | {found['length']:.1f} of {found['moving']:.1f} | {found['passes']:.0f} |"
        )
    lines += [
        "",
        "| heat map | what moves | clips | peak in a box | middle of the frame | heat in boxes | area of boxes | heat while moving |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for method, kinds in figures["heat_maps"].items():
        for what, found in kinds.items():
            if found["clips"]:
                lines.append(
                    f"| {method.removeprefix('gradcam/')} | {what} | {found['clips']} | {_interval(found['pointing'])}"
                    f" | {found['centre']:.2f} | {_interval(found['energy'])} | {found['area']:.2f}"
                    f" | {_interval(found['heat_while_moving'])} of {found['share_of_frames_moving']:.2f} |"
                )
    return "\n".join(lines)


def _interval(found: Interval, sign: str = "") -> str:
    if found["mean"] is None:
        return "-"
    return f"{found['mean']:{sign}.2f} [{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"


def _p(value: float | None) -> str:
    return "-" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
