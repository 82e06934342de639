"""The figures that compare presets, out of one row for each mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chronolens.studies.temporal import overlap, reversed_steps

Row = dict[str, Any]
WITHIN = (0.02, 0.01)


def summary(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return the figures of each operator and preset; comparisons are over the clips that both presets explained."""
    found: dict[str, dict[str, Row]] = {}
    for operator in dict.fromkeys(row["operator"] for row in rows):
        ours = [row for row in rows if row["operator"] == operator]
        presets = dict.fromkeys(row["preset"] for row in ours)
        tables = {preset: {row["index"]: row for row in ours if row["preset"] == preset} for preset in presets}
        found[operator] = {
            preset: _figures(table, tables.get("authors", {}), tables.get("exhaustive", {})) for preset, table in tables.items()
        }
    return found


def _figures(rows: dict[int, Row], authors: dict[int, Row], exhaustive: dict[int, Row]) -> Row:
    every = list(rows.values())
    both = [(row, authors[index]) for index, row in rows.items() if index in authors]
    best = [(row, exhaustive[index]) for index, row in rows.items() if index in exhaustive]
    gaps = [row["objective"] - other["objective"] for row, other in both]
    return {
        "clips": len(every),
        "passes": _mean([row["passes"] for row in every]),
        "most_passes": max(row["passes"] for row in every),
        "share_of_authors_passes": _mean([row["passes"] / other["passes"] for row, other in both]),
        "objective": _mean([row["objective"] for row in every]),
        "above_authors": {"clips": len(gaps), "mean": _mean(gaps), "most": max(gaps, default=None)},
        "within": {str(limit): _mean([gap <= limit for gap in gaps]) for limit in WITHIN},
        "above_best_window": _mean([row["objective"] - other["objective"] for row, other in best]),
        "thresholded_score": _mean([row["thresholded"] for row in every]),
        "length": _mean([int(_on(row).sum()) for row in every]),
        "agreement_with_authors": _mean([float((_on(row) == _on(other)).mean()) for row, other in both]),
        "truth_overlap": _mean([overlap(_on(row), _truth(row)) for row in every]),
        "converged": _mean([row["converged"] for row in every]),
    }


def _on(row: Row) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(row["values"]) > 0.5


def _truth(row: Row) -> np.ndarray[Any, np.dtype[np.bool_]]:
    moving = np.asarray(row["moving"], dtype=np.bool_)
    return reversed_steps(moving) if row["operator"] == "reverse" else moving


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def markdown(operators: dict[str, dict[str, Row]]) -> str:
    """Return one table for both operators."""
    lines = [
        "| operator | preset | clips | passes (most) | of `authors` | objective | above `authors`: mean, most | within 0.02, 0.01"
        " | above the best window | thresholded score | length | agrees with `authors` | truth overlap | converged |",
        "|" + "---|" * 14,
    ]
    for operator, presets in operators.items():
        for preset, found in presets.items():
            above, within = found["above_authors"], found["within"]
            cells = [
                operator,
                preset,
                str(found["clips"]),
                f"{found['passes']:.0f} ({found['most_passes']})",
                _text(found["share_of_authors_passes"], ".3f"),
                f"{found['objective']:.3f}",
                f"{_text(above['mean'], '+.3f')}, {_text(above['most'], '+.3f')}",
                f"{_text(within['0.02'], '.0%')}, {_text(within['0.01'], '.0%')}",
                _text(found["above_best_window"], "+.3f"),
                f"{found['thresholded_score']:.3f}",
                f"{found['length']:.1f}",
                _text(found["agreement_with_authors"], ".2f"),
                f"{found['truth_overlap']:.2f}",
                f"{found['converged']:.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
