"""Many masks at once: clips, classes, operators and restarts share forward and backward passes.

    tasks = [Task(clip, target, settings("default", operator)) for clip in clips for operator in OPERATORS]
    for outcome in learn_many(model, tasks):
        print(outcome.mask or outcome.error)

Every mask is learned as it would be alone; only the batch it travels in differs, so objectives agree within 1e-3 with those learned alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chronolens.errors import ChronolensError
from chronolens.explain import memory
from chronolens.explain.evaluation import Evaluation, Work
from chronolens.explain.mask_state import LearnedMask, MaskState
from chronolens.explain.presets import MaskSettings
from chronolens.explain.protocol import Passes, VideoModel, frozen, gradients, ordinary
from chronolens.explain.temporal_mask import Question, ask, begin, check_clip, finished, never, tell, tell_slope

MOST_ROWS = 64
"""Rows of one pass, however much memory there is: beyond it nothing is gained and progress comes in lumps."""


@dataclass(frozen=True)
class Task:
    """One mask to learn.

    Args:
        clip: (1, C, T, H, W) prepared clip.
        target: class index.
        options: of the mask.
        restarts: how often to learn it; the second and later times from random starts of seeds ``options.seed + 1, ...``; the mask with
            the lowest objective wins.
    """

    clip: Tensor
    target: int
    options: MaskSettings
    restarts: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of one task: a mask, whose passes count all restarts, or the error that ended it."""

    mask: LearnedMask | None = None
    error: Exception | None = None


@dataclass
class _Run:
    """One start of one task."""

    task: int
    clip: Tensor
    target: int
    options: MaskSettings
    state: MaskState
    error: Exception | None = None
    question: Question | None = None

    @property
    def over(self) -> bool:
        return self.error is not None or self.state.done


def learn_many(
    model: VideoModel,
    tasks: Sequence[Task],
    *,
    rows: int | None = None,
    should_stop: Callable[[], bool] = never,
    on_round: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Learn masks together.

    A pass takes as many rows as fit into the free memory, by what one row was measured to need. When memory runs out all the same, the rows
    are tried again in halves. A task that fails alone (no memory even for one row, no such class) ends with its error; the others go
    on, and what is finished is kept.

    Args:
        model: any video model.
        tasks: what to learn; clips of different shapes never share a pass.
        rows: most rows of a pass; measured when None.
        should_stop: asked before each round, in which every mask takes one step; True ends learning, masks are the best so far.
        on_round: told (masks done, masks) after each round.

    Returns:
        One outcome for each task, in order.

    Raises:
        ValueError: a clip is not one clip of T frames, or a number of restarts is below 1.
    """
    with gradients(), frozen(model):
        runs = [run for index, task in enumerate(tasks) for run in _runs(index, task)]
        limit = rows
        while (waiting := [run for run in runs if not run.over]) and not should_stop():
            if limit is None:
                limit = _fitting(model, waiting[0])
            for run in waiting:
                run.question = ask(run.options, run.state)
            for group in _alike(waiting):
                limit = _round(model, group, limit)
            if on_round is not None:
                on_round(sum(run.over for run in runs), len(runs))
    return [_outcome([run for run in runs if run.task == index]) for index in range(len(tasks))]


def _runs(index: int, task: Task) -> Iterator[_Run]:
    if task.restarts < 1:
        raise ValueError("a task needs at least one start")
    clip = ordinary(task.clip)
    for number in range(task.restarts):
        options = replace(task.options, init="random", seed=task.options.seed + number) if number else task.options
        state = begin(options, clip.shape[2] if clip.ndim == 5 else 1)
        check_clip(clip, state)
        yield _Run(index, clip, task.target, options, state)


def _alike(runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    """Yield runs that may share a pass: clips of one shape, all with or all without gradients."""
    groups: dict[tuple[torch.Size, bool], list[_Run]] = {}
    for run in runs:
        if run.question is not None:
            groups.setdefault((run.clip.shape, run.question.differentiable), []).append(run)
    yield from groups.values()


def _round(model: VideoModel, runs: Sequence[_Run], limit: int) -> int:
    """Answer the questions of some runs, at most ``limit`` rows a pass; return the limit that held."""
    position = 0
    while position < len(runs):
        chunk = _fill(runs[position:], limit)
        try:
            _answer(model, chunk)
        except (ChronolensError, MemoryError, RuntimeError) as error:
            short = memory.ran_out(error)
            if not short and not isinstance(error, ChronolensError):
                raise
            if len(chunk) == 1:
                chunk[0].error = error
                position += 1
            else:
                half = sum(_size(run) for run in chunk) // 2
                limit = min(limit, half) if short else limit
                _round(model, chunk, max(1, half))
                position += len(chunk)
            continue
        position += len(chunk)
    return limit


def _fill(runs: Sequence[_Run], limit: int) -> list[_Run]:
    """Return the first runs whose rows fit together, at least one."""
    chosen, rows = [runs[0]], _size(runs[0])
    for run in runs[1:]:
        rows += _size(run)
        if rows > limit:
            break
        chosen.append(run)
    return chosen


def _size(run: _Run) -> int:
    return len(run.question.rows) if run.question else 0


def _answer(model: VideoModel, runs: Sequence[_Run]) -> None:
    """Score the rows of some runs in one pass and tell each its scores and, where it wants it, its slope."""
    questions = [run.question for run in runs if run.question is not None]
    work = [Work(run.clip, run.target, row) for run, question in zip(runs, questions, strict=True) for row in question.rows]
    found = Evaluation(model, work, differentiable=questions[0].differentiable)
    slopes: dict[int, list[float]] = {}
    if questions[0].differentiable:  # asked for before any state moves: a pass that fails here can be done again
        slopes = dict(enumerate(found.slopes(range(len(work)))))
    position = 0
    for run, question in zip(runs, questions, strict=True):
        scores = found.scores[position : position + len(question.rows)]
        if tell(run.options, run.state, question, scores):
            tell_slope(run.options, run.state, slopes[position])
        position += len(question.rows)


def _fitting(model: VideoModel, run: _Run) -> int:
    """Return how many rows of a clip like this one fit into half of the free memory."""
    row_bytes = memory.bytes_per_row(model, run.clip, run.target)
    return max(1, min(MOST_ROWS, memory.free_bytes(run.clip.device) // (2 * max(row_bytes, 1))))


def _outcome(runs: Sequence[_Run]) -> Outcome:
    masks = [finished(run.state, run.options) for run in runs if run.error is None]
    if not masks:
        return Outcome(error=runs[0].error)
    best = min(masks, key=lambda mask: float("inf") if mask.objective.total is None else mask.objective.total)
    return Outcome(replace(best, passes=sum((run.state.passes for run in runs), Passes())))
