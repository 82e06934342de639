"""Truth tests: explanations of synthetic clips against what is known about them, when something moved and where.

Every clip is explained for its true class by the same engine that serves. A row of findings is kept for each (clip, method), one JSON
object a line, so that a test that was cut short goes on where it stopped; ``truth_table`` makes the figures out of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from chronolens.clips import CellGrid, Frames
from chronolens.data.motion_truth import MotionTruth, Steps, motion_truth
from chronolens.data.synthetic import SyntheticClip, make_clip
from chronolens.engine import Engine
from chronolens.errors import OptionsError
from chronolens.explain.grad_cam import TARGETS, WEIGHT_RULES
from chronolens.explain.presets import PRESETS
from chronolens.explain.segments import active
from chronolens.explain.words import OPERATORS
from chronolens.models.weights import WeightsRecord
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.render.overlay import expand_steps, lay_on_clip
from chronolens.studies.pointing import finest_map, point
from chronolens.studies.rows import Row, Rows, origin
from chronolens.studies.temporal import overlap, reversed_steps

SPLIT = "test"
UNCUT = {"max_steps": 10_000, "budget_s": 86_400.0}
HEAT_MAPS = tuple(f"gradcam/{rule}/{of}" for rule in WEIGHT_RULES for of in TARGETS)
MASKS = tuple(f"{operator}/{preset}" for preset in PRESETS for operator in OPERATORS)
METHODS = HEAT_MAPS + MASKS


def scenes(limit: int, seed: int, frames: int) -> Iterator[tuple[SyntheticClip, MotionTruth]]:
    """Yield the first ``limit`` clips of the test split in which something moves, with the truth about ``frames`` sampled frames."""
    index = found = 0
    while found < limit:
        clip = make_clip(SPLIT, index, seed)
        truth = motion_truth(clip, frames)
        if truth.what != "none":
            found += 1
            yield clip, truth
        index += 1


def run(
    engine: Engine,
    model: str,
    *,
    methods: Sequence[str] = METHODS,
    limit: int = 100,
    seed: int = 0,
    rows: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Explain clips of the synthetic test split and compare with the truth.

    Args:
        engine: holds the model.
        model: a model of the synthetic classes.
        methods: out of ``METHODS``; ``METHOD:CLIPS`` takes another number of clips for one of them.
        limit: number of clips of all others.
        seed: of the data set; every seed's test clips are unseen.
        rows: JSON-lines file of findings; what is there already is not computed again. Nothing is written when None.
        report: told (done, total) after each method on each clip.

    Raises:
        OptionsError: an unknown method, a bad number, a model of other classes, or a file of rows of another origin.
    """
    wanted = _wanted(methods, limit)
    if seed < 0:
        raise OptionsError("the seed is at least 0", pointer="/seed")
    loaded = engine.load(model)
    if loaded.record.data_set != "synthetic":
        raise OptionsError("truth is known for the synthetic classes only", pointer="/model")
    found = Rows(rows, origin(engine, model) | {"seed": seed}, ("index", "method"))
    total, taken = sum(wanted.values()), []
    for position, (clip, truth) in enumerate(scenes(max(wanted.values()), seed, loaded.record.clip.frames)):
        for method in (method for method, clips in wanted.items() if position < clips):
            taken.append(found.get(clip.index, method) or found.add(_explain(engine, loaded.record, clip, truth, method)))
            if report is not None:
                report(len(taken), total)
    return taken


def _wanted(methods: Sequence[str], limit: int) -> dict[str, int]:
    """Return the number of clips for each method, written METHOD or METHOD:CLIPS."""
    wanted: dict[str, int] = {}
    for entry in methods or [""]:
        method, _, clips = entry.partition(":")
        if method not in METHODS:
            raise OptionsError(f"unknown method {method[:40]!r}", pointer="/methods", allowed=METHODS)
        wanted[method] = int(clips) if clips.isascii() and clips.isdigit() else 0 if clips else limit
    if min(wanted.values()) < 1:
        raise OptionsError("each method needs at least one clip", pointer="/methods")
    return wanted


def _explain(engine: Engine, record: WeightsRecord, clip: SyntheticClip, truth: MotionTruth, method: str) -> Row:
    spec = record.clip
    frames = clip.render(spec.height, spec.width, spec.frames)
    target = record.classes.index(clip.label)
    kind, *rest = method.split("/")
    row: Row = {
        "index": clip.index,
        "method": method,
        "label": clip.label,
        "what": truth.what,
        "moving": truth.moving.astype(int).tolist(),
    }
    if kind == "gradcam":
        options = GradCamOptions(weights=rest[0], of=rest[1])  # type: ignore[arg-type]
        return row | _heat(engine, record.name, frames, target, truth, options)
    learned = engine.learn(record.name, frames, target, kind, _mask_options(rest[0]), None, **UNCUT)["learned"]  # type: ignore[arg-type]
    kept = ("objective", "steps", "converged", "passes", "seconds")
    return row | {"values": [round(value, 4) for value in learned["values"]], **{key: learned[key] for key in kept}}


def _mask_options(preset: str) -> MaskOptions:
    """Return the options of a preset. ``paper`` gets one step of its 300: together they move a logit of 5 by less than 1, so the
    thresholded mask, all that is judged here, is that of its start."""
    return MaskOptions(preset=preset, steps=1 if preset == "paper" else None)  # type: ignore[arg-type]


def _heat(engine: Engine, model: str, frames: Frames, target: int, truth: MotionTruth, options: GradCamOptions) -> Row:
    arrays, facts = engine.look(model, frames, target=target, gradcam=options)
    name, maps = finest_map(arrays)
    steps, height, width, _ = frames.shape
    grid = CellGrid(**facts["cells"][name])
    laid = expand_steps(lay_on_clip(maps, grid, height, width), steps, grid)
    mass = laid.sum(axis=(1, 2), dtype=np.float64)
    total = float(mass.sum())
    scores = arrays["scores"]
    return {
        "score": float(scores[target]),
        "right": int(scores.argmax()) == target,
        "pointing": point(laid, truth.boxes),
        "heat_while_moving": float(mass[truth.moving].sum()) / total if total > 0 else None,
    }


def mask_truth(row: Row) -> Steps:
    """Return the frames that a row's mask should hold: the moving steps for freezing, both ends of each for reversing."""
    moving: Steps = np.asarray(row["moving"], dtype=np.bool_)
    return reversed_steps(moving) if row["method"].startswith("reverse/") else moving


def mask_overlap(row: Row) -> float:
    """Return the overlap of a row's mask, thresholded at 0.5, with what it should hold."""
    return overlap(active(row["values"]), mask_truth(row))
