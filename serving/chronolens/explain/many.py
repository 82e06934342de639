"""Many masks at once: clips, classes, operators and restarts share forward and backward passes.

    tasks = [Task(clip, target, settings("default", operator)) for clip in clips for operator in OPERATORS]
    for outcome in learn_many(model, tasks):
        print(outcome.mask or outcome.error)

Every mask is learned as it would be alone; only the batch it travels in differs, so objectives agree within 1e-3 with those learned alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from chronolens.errors import ChronolensError
from chronolens.explain import memory
from chronolens.explain.evaluation import Evaluation, Work
from chronolens.explain.known import Row
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
            the lowest objective wins. A search that scores every window has nothing to start again and is done once.
    """

    clip: Tensor
    target: int
    options: MaskSettings
    restarts: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of one task: its mask, whose passes count all restarts, and the error that ended it early, if one did.

    After an error the mask is the best that was evaluated before, None when there is none.
    """

    mask: LearnedMask | None = None
    error: Exception | None = None


@dataclass
class _Run:
    """One start of one task, or one slice of a mask that is learned elsewhere too."""

    task: int
    clip: Tensor
    target: int
    options: MaskSettings
    state: MaskState
    steps: float = math.inf
    error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.error is not None or self.state.done or self.steps <= 0


@dataclass
class _Item:
    """One row of one run's question, and its answer."""

    run: _Run
    row: Row
    score: float = 0.0
    slope: list[float] | None = None


def learn_many(
    model: VideoModel,
    tasks: Sequence[Task],
    *,
    rows: int | None = None,
    should_stop: Callable[[], bool] = never,
    on_round: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Learn masks together.

    A pass takes as many rows as fit into half of the free memory, by what one row was measured to need. When memory runs out all the same,
    half as many are tried from then on. A task that fails alone (no memory even for one row, no such class) ends with its error; the
    others go on, and what is finished is kept.

    Args:
        model: any video model.
        tasks: what to learn; clips of different shapes never share a pass.
        rows: most rows of a pass; when None it is measured, by one forward pass and input gradient for each shape that no mask counts.
        should_stop: asked before each round, in which every mask takes one step; True ends learning, masks are the best so far.
        on_round: told (masks done, masks) after each round.

    Returns:
        One outcome for each task, in order. Passes that failed are not counted.

    Raises:
        ValueError: a clip is not one clip of T frames, or ``rows`` or a number of restarts is below 1.
    """
    if rows is not None and rows < 1:
        raise ValueError("a pass needs at least one row")
    with gradients(), frozen(model):
        runs = [run for index, task in enumerate(tasks) for run in _runs(index, task)]
        _go_round(model, model, runs, rows, should_stop, on_round)
    return [_outcome([run for run in runs if run.task == index]) for index in range(len(tasks))]


@dataclass(frozen=True)
class Slice:
    """Some steps of one mask: what :func:`chronolens.explain.temporal_mask.advance` takes. The state is left as it was."""

    clip: Tensor
    target: int
    options: MaskSettings
    state: MaskState
    max_steps: int


def advance_many(
    model: VideoModel, slices: Sequence[Slice], *, judge: VideoModel | None = None, should_stop: Callable[[], bool] = never
) -> list[MaskState | Exception]:
    """Advance masks together, each by at most its own number of steps; a slice that fails alone gives its error in place of its state.

    Args:
        model: any video model.
        slices: what to learn; clips of different shapes never share a pass.
        judge: network of higher precision that answers what should be exact.
        should_stop: asked before each round, in which every mask takes one step.
    """
    with gradients(), frozen(model), frozen(judge or model):
        runs = []
        for index, part in enumerate(slices):
            check_clip(part.clip, part.state)
            runs.append(_Run(index, ordinary(part.clip), part.target, part.options, copy.deepcopy(part.state), part.max_steps))
        _go_round(model, judge or model, runs, None, should_stop, None)
    return [run.state if run.error is None else run.error for run in runs]


def _go_round(
    model: VideoModel,
    judge: VideoModel,
    runs: Sequence[_Run],
    rows: int | None,
    should_stop: Callable[[], bool],
    on_round: Callable[[int, int], None] | None,
) -> None:
    """Let every run take one step after the other until all are over."""
    limits = {run.clip.shape: rows or 0 for run in runs}
    while (waiting := [run for run in runs if not run.over]) and not should_stop():
        questions = [(run, ask(run.options, run.state)) for run in waiting]
        answers = [[_Item(run, row) for row in question.rows] for run, question in questions]
        kinds = [(run.clip.shape, question.differentiable, question.exact and judge is not model) for run, question in questions]
        for kind in dict.fromkeys(kinds):
            shape, differentiable, exact = kind
            alike = [item for other, items in zip(kinds, answers, strict=True) if other == kind for item in items]
            most = limits[shape] or _fitting(model, alike[0].run.clip)
            limits[shape] = _score(judge if exact else model, alike, most, differentiable)
        for (run, question), items in zip(questions, answers, strict=True):
            _tell(run, question, items)
            run.steps -= 1
        if on_round is not None:
            on_round(sum(run.over for run in runs), len(runs))


def _runs(index: int, task: Task) -> Iterator[_Run]:
    if task.restarts < 1:
        raise ValueError("a task needs at least one start")
    clip = ordinary(task.clip)
    for number in range(1 if task.options.forward_only else task.restarts):
        options = replace(task.options, init="random", seed=task.options.seed + number) if number else task.options
        state = begin(options, clip.shape[2] if clip.ndim == 5 else 1)
        check_clip(clip, state)
        yield _Run(index, clip, task.target, options, state)


def _score(model: VideoModel, items: Sequence[_Item], limit: int, differentiable: bool) -> int:
    """Answer items of one shape, at most ``limit`` in a pass; return the limit that held."""
    position, most = 0, limit
    while position < len(items):
        chunk = [item for item in items[position : position + limit] if item.run.error is None]
        error = _answer(model, chunk, differentiable)
        if error is None:
            position += limit
        elif len(chunk) == 1:
            chunk[0].run.error = error
            position, limit = position + limit, most  # one clip that never fits must not slow down all others
        elif memory.ran_out(error):
            limit = most = max(1, len(chunk) // 2)
        else:
            for item in chunk:
                item.run.error = item.run.error or _answer(model, [item], differentiable)
            position += limit
    return limit


def _answer(model: VideoModel, items: Sequence[_Item], differentiable: bool) -> Exception | None:
    """Score some items in one pass; return what went wrong, without the frames that would keep the failed pass in memory."""
    if not items:
        return None
    try:
        found = Evaluation(model, [Work(item.run.clip, item.run.target, item.row) for item in items], differentiable=differentiable)
        slopes = found.slopes(range(len(items))) if differentiable else [None] * len(items)
    except (ChronolensError, MemoryError, RuntimeError) as error:
        if not isinstance(error, ChronolensError) and not memory.ran_out(error):
            raise
        return error.with_traceback(None)
    for item, score, slope in zip(items, found.scores, slopes, strict=True):
        item.score, item.slope = score, slope
    return None


def _tell(run: _Run, question: Question, items: Sequence[_Item]) -> None:
    if run.error is not None:
        return
    wanted = tell(run.options, run.state, question, [item.score for item in items])
    slope = items[0].slope
    if slope is None:
        return
    if wanted:
        tell_slope(run.options, run.state, slope)
    else:  # taken with the others of its pass, though its score was not finite
        run.state.passes += Passes(input_gradient=1)


def _fitting(model: VideoModel, clip: Tensor) -> int:
    """Return how many rows of a clip like this one fit into half of the free memory."""
    try:
        row_bytes = memory.bytes_per_row(model, clip)
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
        return 1
    return max(1, min(MOST_ROWS, memory.free_bytes(clip.device) // (2 * max(row_bytes, 1))))


def _outcome(runs: Sequence[_Run]) -> Outcome:
    masks = [finished(run.state, run.options) for run in runs]
    masks = [replace(mask, converged=mask.converged and run.error is None) for mask, run in zip(masks, runs, strict=True)]
    error = next((run.error for run in runs if run.error is not None), None)
    known = [mask for mask in masks if mask.objective.total is not None]
    if not known and error is not None:
        return Outcome(error=error)
    best = min(known or masks, key=lambda mask: mask.objective.total or 0.0)
    return Outcome(replace(best, passes=sum((mask.passes for mask in masks), Passes())), error)
