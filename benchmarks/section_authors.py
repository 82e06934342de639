"""Both masks of one clip: the authors' loop against the product's, seconds and passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from authors_loop import BATCH, STEPS, authors_iterations, authors_start, trainable_copy, whole_passes
from device_loop import central_starts
from markdown_table import Table
from rounds import take_turns
from section_iteration import one_iteration
from subjects import Subject

from chronolens.clips import Frames
from chronolens.engine import Engine
from chronolens.explain.words import OPERATORS
from chronolens.options import MaskOptions

FEW = 2
"""Rounds at most: an iteration at batch 16 is 48 passes."""
DEFAULT = "preset default, as served"


@dataclass(frozen=True)
class Loop:
    """An iteration to time, and what it stands for.

    Args:
        work: one iteration.
        passes: it takes.
        both: passes of 300 iterations for both masks, the searches for their starts included.
        repeats: iterations in a round.
    """

    work: Callable[[], object]
    passes: int
    both: int
    repeats: int = 2


def both_masks(engine: Engine, name: str, frames: Frames, target: int) -> int:
    """Learn freeze and reverse by the preset ``default`` as a server does, with no score known from before; return the passes it cost."""
    spent = 0
    for operator in OPERATORS:
        state = None
        learned = None
        while learned is None:
            facts = engine.learn(name, frames, target, operator, MaskOptions(), state, max_steps=25, budget_s=60.0)
            state, learned = facts["state"], facts.get("learned")
        spent += int(learned["passes"])
    return spent


def authors_tables(engine: Engine, subjects: Sequence[Subject], rounds: int) -> list[Table]:
    """Return seconds and passes of an iteration of each loop and, extrapolated or measured, of both masks of the first clip.

    Args:
        engine: its store holds the subjects.
        subjects: shipped models.
        rounds: at most two count.
    """
    rows = [row for subject in subjects for row in _of_one(engine, subject, rounds)]
    frames = subjects[0].clips[0].shape[2]
    most = len(OPERATORS) * whole_passes(frames)
    notes = [
        f"Extrapolated: {STEPS} iterations for each mask and the searches for their starts on this clip, every pass as long as one of an"
        f" iteration. A clip of {frames} frames costs the authors' loop {most:,} passes at most: {len(OPERATORS)} masks x {BATCH} copies x"
        f" ({STEPS} iterations x 3 + {frames // 2 + 1} forwards of the search). The preset default is measured whole.",
    ]
    return [Table("Both masks of one clip: the authors' loop and ours", rows, notes)]


def loops(engine: Engine, subject: Subject) -> dict[str, Loop]:
    """Return the authors' loop at batch 16 and 1, and the preset ``authors`` in float32 and as masks are served, for the first clip."""
    clip, target = subject.clips[0], subject.target(0)
    starts = {operator: authors_start(subject.network, clip, target, operator, 1) for operator in OPERATORS}
    logits, frames = starts["freeze"][0], clip.shape[2]
    trainable = trainable_copy(subject.network)
    made: dict[str, Loop] = {}
    for batch in (BATCH, 1):
        both = sum(whole_passes(frames, batch, STEPS, searched.forward) for _, searched in starts.values())
        work = partial(authors_iterations, trainable, clip, target, "freeze", 1, batch, logits)
        made[f"authors' loop, batch {batch}"] = Loop(work, 3 * batch, both, 1 if batch > 1 else 2)
    _, searched = central_starts(subject.network, clip, [target])
    for precision in dict.fromkeys(["float32", engine.precision]):
        both = searched.total + len(OPERATORS) * (2 * STEPS + 1)  # the mask after the last step is scored too
        made[f"preset authors, {precision}"] = Loop(one_iteration(subject.forms[precision], clip, target, "freeze"), 2, both)
    return made


def _of_one(engine: Engine, subject: Subject, rounds: int) -> list[dict[str, Any]]:
    timed, target = loops(engine, subject), subject.target(0)
    spent: list[int] = []
    works = {name: loop.work for name, loop in timed.items()}
    works[DEFAULT] = lambda: spent.append(both_masks(engine, subject.name, subject.frames[0], target))
    took = take_turns(works, min(rounds, FEW), {name: loop.repeats for name, loop in timed.items()})
    rows = [
        _row(subject, name, took[name], loop.passes, loop.both, took[name] * loop.both / loop.passes, "extrapolated")
        for name, loop in timed.items()
    ]
    rows.append(_row(subject, DEFAULT, None, None, spent[-1], took[DEFAULT], "measured"))
    slowest = rows[0]["both_masks_s"]
    return [{**row, "batch_16_/_this": slowest / row["both_masks_s"]} for row in rows]


def _row(subject: Subject, loop: str, iteration: float | None, passes: int | None, both: int, seconds: float, how: str) -> dict[str, Any]:
    return {
        "model": subject.name,
        "clip": subject.size,
        "loop": loop,
        "iteration_s": iteration,
        "iteration_passes": passes,
        "both_masks_passes": both,
        "both_masks_s": seconds,
        "how": how,
    }
