"""Learning a temporal mask: which frames, frozen or reversed, take the score away from a class?

Minimises ``l1 * sum(m) + l2 * TV(m) + F_c(p)`` over masks m in [0, 1]. The network is only asked for scores of perturbed clips and for
their slopes by the mask, one clip per row; its parameters never get a gradient. Learning is cut into slices: :func:`advance` takes a state
and returns a state. Underneath, a state asks (:func:`ask`) and is told (:func:`tell`, :func:`tell_slope`), so that many masks can share
a pass (:mod:`chronolens.explain.many`).

    options = settings("default", "freeze")
    state = begin(options, frames=16)
    while not state.done:
        state = advance(model, clip, target, options, state)
    mask = finished(state, options)

Source: Mänttäri, Broomé et al. 2020. Resumed masks are bit-equal on the same machine and thread count.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chronolens.errors import OptionsError
from chronolens.explain import mask_start, trust_region
from chronolens.explain.evaluation import Evaluation, Work, score_rows
from chronolens.explain.known import Known, Row
from chronolens.explain.mask_state import Iterate, LearnedMask, MaskState, Objective, penalties, record, settled, sigmoid
from chronolens.explain.objective import ROWS
from chronolens.explain.presets import PRESETS, MaskSettings, settings
from chronolens.explain.protocol import Passes, VideoModel, frozen, gradients, ordinary
from chronolens.explain.trust_region import Region
from chronolens.explain.words import OPERATORS

__all__ = ["PRESETS", "LearnedMask", "MaskSettings", "MaskState", "advance", "begin", "finished", "progress", "settings"]

SLICE = 25
ORDER_ROWS = 24
"""Windows scored at once by a network that shares what their beginnings have in common; see ``objective.reordered_scores``."""
USUAL_STEPS = 14
"""Steps after which the trust region has mostly ended, for the progress bar only."""


@dataclass(frozen=True)
class Question:
    """What a state wants to know next.

    Args:
        rows: perturbations to score.
        differentiable: slopes may be asked for afterwards.
        exact: scores that are reported or compared with reported ones, so that a network of higher precision should give them.
        last: the mask after Adam's last step, of which only the objective is wanted.
    """

    rows: list[Row]
    differentiable: bool = False
    exact: bool = False
    last: bool = False


def never() -> bool:
    """Return False: the default of ``should_stop``."""
    return False


def begin(options: MaskSettings, frames: int, known: Known | None = None) -> MaskState:
    """Return the state before the first step. Costs no pass.

    Args:
        options: from ``settings``.
        frames: T >= 1 of the clip.
        known: scores of the same clip and class that need no pass.

    Raises:
        OptionsError: frames is below 1, or the operator is unknown.
    """
    if frames < 1:
        raise OptionsError("A mask needs at least one frame.", limit=1, observed=frames)
    if options.operator not in OPERATORS:
        raise OptionsError("Unknown operator.", pointer="/methods", allowed=OPERATORS)
    state = MaskState([0.0] * frames, known=known or Known())
    mask_start.plan(options, state)
    return state


def advance(
    model: VideoModel,
    clip: Tensor,
    target: int,
    options: MaskSettings,
    state: MaskState,
    *,
    max_steps: int = SLICE,
    should_stop: Callable[[], bool] = never,
    on_step: Callable[[MaskState], None] | None = None,
    judge: VideoModel | None = None,
) -> MaskState:
    """Do some steps more and return the new state; the given one is left as it was.

    A step scores some candidates for the start or is one step of the optimiser. A network that returns NaN or infinity ends the mask with
    ``converged`` false and the best finite mask so far.

    Args:
        model: any video model.
        clip: (1, C, T, H, W) prepared clip.
        target: class index.
        options: the settings that ``begin`` got.
        state: from ``begin`` or an earlier slice.
        max_steps: most steps of this slice.
        should_stop: asked before each step; True ends the slice.
        on_step: called with the new state after each step.
        judge: network of higher precision that answers what should be exact in place of ``model``.

    Raises:
        UnknownClassError: the model has no such class.
        ValueError: the clip is not one clip of T frames.
    """
    check_clip(clip, state)
    state = copy.deepcopy(state)
    with gradients(), frozen(model), frozen(judge or model):
        clip = ordinary(clip)
        for _ in range(max_steps):
            if state.done or should_stop():
                break
            question = ask(options, state, rows_at_once(model))
            work = [Work(clip, target, row) for row in question.rows]
            network = judge if judge is not None and question.exact else model
            found = Evaluation(network, work, differentiable=question.differentiable)
            if tell(options, state, question, found.scores):
                tell_slope(options, state, found.slopes([0])[0])
            if on_step is not None:
                on_step(state)
    return state


def rows_at_once(model: VideoModel) -> int:
    """Return how many windows the exhaustive search scores at once."""
    return ORDER_ROWS if getattr(model, "reads_in_order", False) else ROWS


def check_clip(clip: Tensor, state: MaskState) -> None:
    """Raise ValueError unless the clip is one clip (1, C, T, H, W) of the state's T frames."""
    if clip.ndim != 5 or clip.shape[0] != 1 or clip.shape[2] != len(state.point):
        raise ValueError(f"a mask of {len(state.point)} frames does not fit a clip of shape {tuple(clip.shape)}")


def ask(options: MaskSettings, state: MaskState, rows: int = ROWS) -> Question:
    """Return what a state that is not done wants to know next; only the exhaustive search takes more than four rows."""
    if state.phase == "start":
        few = mask_start.candidates(options, state, rows if options.init == "exhaustive" else min(rows, ROWS))
        return Question(few, exact=options.central)  # a handful, and most of them are reported as scores
    last = options.optimiser == "adam" and state.step >= options.steps
    return Question([_row(options, state.point)], differentiable=not last, exact=last, last=last)


def tell(options: MaskSettings, state: MaskState, question: Question, scores: Sequence[float]) -> bool:
    """Give the state the scores of its question; return whether it wants the slope of the (one) row by :func:`tell_slope`."""
    if state.phase == "start":
        mask_start.tell(options, state, question.rows, scores)
        return False
    (score,) = scores
    state.passes += Passes(forward=1)
    if not record(state, options, state.point, score) or state.last is None:
        state.phase, state.converged = "done", False
        return False
    if question.last:  # perhaps by another network than the others, so it says nothing about how they settled
        state.phase, state.complete = "done", True
        return False
    state.history.append(state.last.total)
    if state.region is None:
        state.converged = settled(state.history)
        return True
    state.step += state.region.point is not None
    return True


def tell_slope(options: MaskSettings, state: MaskState, slope: Sequence[float]) -> None:
    """Give the state the derivative of the last score by the T mask values."""
    state.passes += Passes(input_gradient=1)
    if state.last is None:
        return
    if state.region is not None:
        if trust_region.learn(state.region, state.last.score, state.last.total, slope):
            _go_on(options, state, state.region)
        else:
            state.phase, state.converged = "done", False
    elif state.adam is not None:
        if state.adam.move(_by_logits(options, state.adam.logits, slope), options.learning_rate, state.step + 1):
            state.step += 1
            state.point = sigmoid(state.adam.logits)
        else:
            state.phase, state.converged = "done", False


def finished(state: MaskState, options: MaskSettings) -> LearnedMask:
    """Return the mask of a state: the best or the last iterate, as the settings say. A state cut short gives the best it has."""
    kept = state.best if options.keep == "best" or not state.done else state.last
    return LearnedMask(
        operator=options.operator,
        values=tuple(kept.values if kept else state.point),
        objective=_objective(kept),
        steps=state.step,
        converged=state.converged,
        passes=state.passes,
        optimum=mask_start.optimum(options, state),
    )


def rescored(
    model: VideoModel, clip: Tensor, target: int, options: MaskSettings, mask: LearnedMask, known: Known | None = None
) -> LearnedMask:
    """Return the mask with its objective computed anew, by a network of higher precision than the one it was learned on.

    One forward pass, none when the score is known. A score that is not finite makes the objective None and ``converged`` false. When the
    clip as it is is known to have a lower objective, the empty mask is returned in its place.
    """
    known = Known() if known is None else known
    row = _row(options, mask.values)
    (score,), passes = score_rows(model, clip, target, [row], known)
    found = replace(mask, objective=_objective_of(options, row, score), passes=mask.passes + passes)
    empty = _row(options, [0.0] * len(mask.values))
    other = known.get(empty)
    if not math.isfinite(score):
        return replace(found, converged=False)
    if other is None or found.objective.total is None or other >= found.objective.total:
        return found
    return replace(found, values=empty.values, objective=_objective_of(options, empty, other))


def _objective_of(options: MaskSettings, row: Row, score: float) -> Objective:
    l1, tv = (float(term) for term in penalties(torch.tensor(row.values, dtype=torch.float64), options))
    return Objective(l1 + tv + score, l1, tv, score) if math.isfinite(score) else Objective()


def _row(options: MaskSettings, values: Sequence[float]) -> Row:
    return Row(options.operator, tuple(values), options.pair, options.threshold)


def progress(state: MaskState, options: MaskSettings) -> tuple[int, int]:
    """Return (passes done, passes expected) for a progress bar; equal once the state is done."""
    done = state.passes.total
    if state.done:
        return done, done
    per_step = 2 * (options.steps if options.optimiser == "adam" else min(options.steps, USUAL_STEPS)) + 1
    expected = len(state.windows) + (per_step if options.steps else 0)
    return done, max(expected, done + 1)


def _go_on(options: MaskSettings, state: MaskState, region: Region) -> None:
    """Let the trust region propose its next mask; when it has ended, take the next start or end."""
    if state.step < options.steps and trust_region.propose(region, options) and region.point is not None:
        state.point = region.point
        return
    if state.best is not None and region.total is not None and region.total <= state.best.total:
        state.converged = trust_region.converged(region, options)
    if state.rivals and state.step < options.steps:
        state.point = state.rivals.pop(0)
        state.region = Region(state.point, min(options.learning_rate, 1.0))
    else:
        state.phase = "done"


def _by_logits(options: MaskSettings, logits: Sequence[float], slope: Sequence[float]) -> list[float]:
    """Return the slope of the objective by the logits, given that of the score by the mask values."""
    moved = torch.tensor(list(logits), dtype=torch.float64, requires_grad=True)
    masks = torch.sigmoid(moved)
    l1, tv = penalties(masks, options)
    (found,) = torch.autograd.grad(l1 + tv + (masks * torch.tensor(list(slope), dtype=torch.float64)).sum(), moved)
    gradient: list[float] = found.tolist()
    return gradient


def _objective(kept: Iterate | None) -> Objective:
    return Objective(kept.total, kept.l1, kept.tv, kept.score) if kept else Objective()
