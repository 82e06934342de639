"""Write the card of a model and the picture of its confusion matrix from its record and an evaluation.

chronolens evaluate --model i3d-synthetic --reversed --frozen --json > figures.json
chronolens evaluate --model i3d-synthetic --explanations --json > truth.json
python tools/model_card.py figures.json --truth truth.json --command "chronolens train ..."
python tools/model_card.py --truth truth.json     # the weights stay, their explanations were measured anew
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from chronolens.models.registry import build_model
from chronolens.models.weights import WeightsRecord, find_record
from chronolens.render.overlay import colour_bar
from chronolens.render.text import BACKGROUND, write
from chronolens.store import default_store
from chronolens.studies.truth_table import markdown, p_text

CELL, MARGIN = 30, 470


def picture(counts: np.ndarray, classes: list[str]) -> np.ndarray:
    """Return the confusion matrix (rows: truth, columns: prediction) as an RGB picture; colour is the share of the row."""
    side = CELL * len(classes)
    image = np.full((side + 50, MARGIN + side + 10, 3), BACKGROUND, dtype=np.uint8)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, label in enumerate(classes):
        top = 30 + row * CELL
        write(image, f"{label}  {row}", 8, top + 20, 13)
        for column in range(len(classes)):
            left = MARGIN + column * CELL
            image[top : top + CELL - 1, left : left + CELL - 1] = colour_bar(np.array(shares[row, column]))
            if counts[row, column]:
                write(image, str(int(counts[row, column])), left + 6, top + 20, 13)
    for column in range(len(classes)):
        write(image, str(column), MARGIN + column * CELL + 6, 22, 13)
    return image


def per_class(counts: np.ndarray, classes: list[str]) -> str:
    """Return a table of precision, recall and F1."""
    lines = ["| | class | precision | recall | F1 |", "|---|---|---|---|---|"]
    for number, label in enumerate(classes):
        hits, said, there = counts[number, number], counts[:, number].sum(), counts[number].sum()
        precision, recall = hits / max(said, 1), hits / max(there, 1)
        lines.append(f"| {number} | {label} | {precision:.2f} | {recall:.2f} | {2 * hits / max(said + there, 1):.2f} |")
    return "\n".join(lines)


def truth(figures: dict[str, Any] | None, record: WeightsRecord) -> str:
    """Return the section on explanations; empty without figures."""
    if figures is None:
        return ""
    name = record.name
    pathways = build_model(record.architecture, **record.config).pathways
    judged = " Of the pathways' heat maps the one with most steps is judged." if pathways else ""
    return f"""## Explanations against the truth

`chronolens evaluate --model {name} --explanations`, seed {figures["seed"]}, {figures["clips"]} clips with motion (fewer where
the table says so), {figures["right"]} classified rightly; all are explained for their true class.{judged} Means with 95 % bootstrap
intervals over clips. What the columns mean: [docs/methods.md](../docs/methods.md), section 6; all figures:
[{name}-truth.json]({name}-truth.json).

{markdown(figures)}

{verdict(figures)}

"""


def verdict(figures: dict[str, Any]) -> str:
    """Say in words what the default explanations are worth."""
    freeze = figures["masks"]["freeze/default"]
    heat = figures["heat_maps"]["gradcam/per_frame/logit"]["object"]
    p = freeze["chance_other_clips"]["p"]
    mask = "know their clip" if p < 0.01 else "are not shown to know their clip"
    points = "point" if heat["pointing"]["low"] > heat["centre"] else "do not point"
    return (
        f"In words: freeze masks {mask} (masks of any clip do as well with {p_text(p)}); heat maps {points} at moving objects"
        f" more often than the middle of the frame does."
    )


def card(record: WeightsRecord, figures: dict[str, Any], command: str, note: str, explained: dict[str, Any] | None) -> str:
    """Return the text of the card."""
    network = build_model(record.architecture, **record.config)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    counts = np.asarray(figures["confusion"])
    clip, metrics = record.clip, record.metrics
    prepared = f"(value * {clip.scale:.6f} - {clip.mean[0]:g}) / {clip.std[0]:g}"
    config = ", ".join(f"`{key}={value}`" for key, value in record.config.items())
    return f"""# {record.name}

| | |
|---|---|
| architecture | {record.architecture}: {config} |
| parameters | {parameters:,} |
| input | {clip.frames} frames of {clip.height} x {clip.width}, sampling `{clip.sampling}`, {prepared} |
| default heat map | {" and ".join(f"`{layer}`" for layer in network.default_layers)} |
| weights | `{record.file}`, float16, sha256 `{record.sha256}` |
| licence | {record.licence} |
| data | `{record.data_set}`, {metrics.get("training_clips", "?")} training clips, drawn by this package's generator |
| training | {metrics.get("training_hours", "?")} h on 2 CPU cores that other work shared |
| command | `{command}` |
| differences of the shipped run | {note} |

## Figures

Split `{figures["split"]}`, seed {figures["seed"]}, {figures["n"]} clips; backgrounds, textures and object shapes never occur in training.

| figure | value |
|---|---|
| macro F1 | {figures["f1"]:.3f} |
| accuracy | {figures["accuracy"]:.3f} |
| macro F1 of reversed clips against their label, all classes | {figures["reversed_f1"]:.3f} |
| reversed clips that keep their label (classes with an opposite) | {figures["reversed_accuracy"]:.3f} |
| reversed clips that are read as the opposite class | {figures["reversed_opposite"]:.3f} |
| macro F1 with every frame equal to the first | {figures["frozen_f1"]:.3f} |

{per_class(counts, figures["classes"])}

![Confusion matrix: rows are the truth, columns the prediction]({record.name}-confusion.png)

{truth(explained, record)}## Limits

Synthetic textures and shapes only. The model knows how things move in this data set and nothing about the real world: it is for trying the
explanation methods, not for decisions about real video. Every answer carries a warning that says so.
"""


def with_truth(text: str, section: str) -> str:
    """Return a card with another section on explanations."""
    before, rest = text.split("## Explanations against the truth", 1)
    return before + section + rest[rest.index("## Limits") :]


def main() -> None:
    """Write card, picture and truth into the model store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, nargs="?", help="output of chronolens evaluate --reversed --frozen --json")
    parser.add_argument("--command", default=None, help="the command that trained the weights; needed with figures")
    parser.add_argument("--note", default="none", help="how the shipped run differed from the command")
    parser.add_argument("--truth", type=Path, default=None, help="output of evaluate --explanations --json, copied into the store")
    options = parser.parse_args()
    if (options.figures is None) != (options.command is None) or options.figures is options.truth is None:
        parser.error("give figures and the command, or --truth alone, or all three")
    figures = json.loads(options.figures.read_text(encoding="utf-8")) if options.figures else None
    explained = json.loads(options.truth.read_text(encoding="utf-8")) if options.truth else None
    store = default_store()
    record = find_record(store, (figures or explained)["model"])
    if explained is not None and explained["weights"] != record.sha256:
        raise SystemExit(f"{options.truth} was made with other weights")
    if explained is not None:
        (store / f"{record.name}-truth.json").write_text(json.dumps(explained, indent=1) + "\n", encoding="utf-8")
    page = store / f"{record.name}.md"
    if figures is None:
        page.write_text(with_truth(page.read_text(encoding="utf-8"), truth(explained, record)), encoding="utf-8")
    else:
        page.write_text(card(record, figures, options.command, options.note, explained), encoding="utf-8")
        image = picture(np.asarray(figures["confusion"]), figures["classes"])
        cv2.imwrite(str(store / f"{record.name}-confusion.png"), image[:, :, ::-1])
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
