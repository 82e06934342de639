"""A result in a few readable lines, for terminals. Takes the JSON of an answer, so that it serves service and library alike."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Answer = dict[str, Any]


def prediction_table(result: Answer) -> RenderableType:
    """Return the best classes, with the warnings of the model beneath."""
    table = Table("score", "class", title=f"{result['model']} says", title_justify="left")
    for entry in result["predictions"]:
        table.add_row(f"{entry['score']:.3f}", Text(entry["label"]))
    return Group(table, *(Text(f"note: {text}") for text in result["warnings"]))


def explanation_lines(result: Answer) -> list[RenderableType]:
    """Return prediction, masked seconds, scores and drops of an explanation."""
    lines: list[RenderableType] = [prediction_table(result), f"explained class: {result['target']['label']} ({result['target']['why']})"]
    lines += [_mask_line(operator, mask, len(mask["values"])) for operator, mask in result["masks"].items()]
    scores, drop = result["scores"], result["drop"]
    named = {"OS": "original", "FS": "freeze", "RS": "reverse", "reverse learned": "reverse_learned"}
    shown = [f"{short} {scores[name]:.3f}" for short, name in named.items() if scores[name] is not None]
    lines.append("scores: " + ", ".join(shown))
    if drop["difference"] is not None:
        ratio = "none (" + drop["reason"] + ")" if drop["ratio"] is None else f"{drop['ratio']:.2f}"
        lines.append(f"drop ratio {ratio}, drop difference {drop['difference']:.3f}")
    lines.append(f"{result['passes']['total']} network passes, {result['timing_s']['total']:.1f} s")
    return lines


def _mask_line(operator: str, mask: Answer, frames: int) -> str:
    spans = [f"{part['start_s']:.2f}-{part['end_s']:.2f} s" for part in mask["segments"]]
    state = "converged" if mask["converged"] else "not converged"
    chance = mask["better_than_chance"]["p_value"]
    trust = "" if chance is None else f", p = {chance:.2f} against chance"
    return f"{operator} mask: {mask['length']} of {frames} frames, {', '.join(spans) or 'nowhere'} ({state}{trust})"
