"""The figures of a truth test out of its rows, and as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chronolens.explain.segments import active
from chronolens.studies.rows import Row
from chronolens.studies.statistics import Interval, Numbers, chance_p_value, interval_text, mean_interval
from chronolens.studies.temporal import best_constant, overlap, scattered_overlaps, swapped_overlaps, window_overlaps
from chronolens.studies.truth import HEAT_MAPS, MASKS, mask_overlap, mask_truth

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

    ``overlap``: temporal intersection over union with what the mask should hold. What chance reaches, each with ``mean`` and ``p``, the
    probability that it does as well: ``chance_window`` (windows of the same lengths anywhere), ``chance_scattered`` (random sets of as many
    frames), ``chance_other_clips`` (the same masks, each clip with one of any clip: motion sits in the middle of most clips, so this is
    what a mask reaches that knows where motion usually is). ``all_frames`` and ``best_constant``: every frame that can matter, and the best
    window for all clips alike. ``against_exhaustive``: difference to the overlap of the contiguous window with the best objective, on the
    same clips. ``overlap_right``: on the clips that the model classifies rightly.
    """
    first = 0 if rows[0]["method"].startswith("reverse/") else 1
    right = {row["index"] for row in everything if row["method"] in HEAT_MAPS and row["right"]}
    truths = [mask_truth(row) for row in rows]
    masks = [active(row["values"]) for row in rows]
    overlaps = [overlap(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
    lengths = [sum(mask) for mask in masks]
    windows = [window_overlaps(n, truth, first) for n, truth in zip(lengths, truths, strict=True)]
    scattered = [scattered_overlaps(n, truth, first, seed=row["index"]) for n, truth, row in zip(lengths, truths, rows, strict=True)]
    frames = len(truths[0])
    constant, constant_mean = best_constant(truths)
    objectives = [row["objective"]["total"] for row in rows if row["objective"]["total"] is not None]
    return {
        "overlap": mean_interval(overlaps),
        "overlap_right": mean_interval([value for value, row in zip(overlaps, rows, strict=True) if row["index"] in right]),
        "chance_window": _chance(overlaps, windows),
        "chance_scattered": _chance(overlaps, scattered),
        "chance_other_clips": _chance(overlaps, swapped_overlaps(masks, truths)),
        "all_frames": float(np.mean([overlap(np.arange(frames) >= first, truth) for truth in truths])),
        "best_constant": {"window": list(constant), "mean": constant_mean},
        "against_exhaustive": _against_exhaustive(rows, everything),
        "length": float(np.mean(lengths)),
        "right_length": float(np.mean([truth.sum() for truth in truths])),
        "empty": sum(n == 0 for n in lengths),
        "converged": float(np.mean([row["converged"] for row in rows])),
        "objective": mean_interval(objectives),
        "passes": float(np.mean([row["passes"] for row in rows])),
    }


def _chance(overlaps: Sequence[float], alternatives: Sequence[Numbers]) -> Figures:
    return {"mean": float(np.mean([values.mean() for values in alternatives])), "p": chance_p_value(overlaps, alternatives)}


def _against_exhaustive(rows: Sequence[Row], everything: Sequence[Row]) -> Interval:
    operator = rows[0]["method"].split("/")[0]
    best = {row["index"]: mask_overlap(row) for row in everything if row["method"] == f"{operator}/exhaustive"}
    return mean_interval([mask_overlap(row) - best[row["index"]] for row in rows if row["index"] in best])


def markdown(figures: Figures) -> str:
    """Return both tables."""
    lines = [
        "| mask | clips | overlap with the motion | windows by chance (p) | masks of any clip (p) | all frames, best constant window"
        " | minus exhaustive | length | empty | converged |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, found in figures["masks"].items():
        window, others = found["chance_window"], found["chance_other_clips"]
        lines.append(
            f"| {method} | {found['overlap']['n']} | {interval_text(found['overlap'])} | {window['mean']:.2f} ({p_text(window['p'])})"
            f" | {others['mean']:.2f} ({p_text(others['p'])}) | {found['all_frames']:.2f}, {found['best_constant']['mean']:.2f}"
            f" | {interval_text(found['against_exhaustive'], '+')} | {found['length']:.1f} of {found['right_length']:.1f}"
            f" | {found['empty']} | {found['converged']:.2f} |"
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
                    f"| {method.removeprefix('gradcam/')} | {what} | {found['clips']} | {interval_text(found['pointing'])}"
                    f" | {found['centre']:.2f} | {interval_text(found['energy'])} | {found['area']:.2f}"
                    f" | {interval_text(found['heat_while_moving'])} of {found['share_of_frames_moving']:.2f} |"
                )
    return "\n".join(lines)


def p_text(value: float | None) -> str:
    """Return a probability as it is written in a table."""
    return "-" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
