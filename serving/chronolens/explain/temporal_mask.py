"""Learning a temporal mask: which frames, frozen or reversed, take the score away from a class?

Minimises ``l1 * sum(m) + l2 * TV(m) + F_c(p)`` over ``m = sigmoid(z)`` with Adam. The network is only asked for the gradient by its
input, one clip per row; its parameters never get one. Learning is cut into slices: :func:`advance` takes a state and returns a state.

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
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from chronolens.errors import OptionsError
from chronolens.explain import mask_start
from chronolens.explain.mask_state import Iterate, LearnedMask, MaskState, Objective, penalties, record, settled, sigmoid
from chronolens.explain.objective import ROWS, class_scores, operator_matrix, perturbed_scores
from chronolens.explain.perturbation import apply
from chronolens.explain.presets import PRESETS, MaskSettings, settings
from chronolens.explain.protocol import Passes, VideoModel, frozen, gradients, ordinary
from chronolens.explain.words import OPERATORS

__all__ = ["PRESETS", "LearnedMask", "MaskSettings", "MaskState", "advance", "begin", "finished", "progress", "settings"]

SLICE = 25
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
LOGIT_LIMIT = 50.0
"""Beyond it the sigmoid is 0 or 1 in double precision; the limit keeps a wild learning rate finite."""


def never() -> bool:
    """Return False: the default of ``should_stop``."""
    return False


def begin(options: MaskSettings, frames: int) -> MaskState:
    """Return the state before the first step. Costs no pass.

    Args:
        options: from ``settings``.
        frames: T >= 1 of the clip.

    Raises:
        OptionsError: frames is below 1, or the operator is unknown.
    """
    if frames < 1:
        raise OptionsError("A mask needs at least one frame.", limit=1, observed=frames)
    if options.operator not in OPERATORS:
        raise OptionsError("Unknown operator.", pointer="/methods", allowed=OPERATORS)
    state = MaskState([-options.start_logit] * frames, [0.0] * frames, [0.0] * frames)
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
) -> MaskState:
    """Do some steps more and return the new state; the given one is left as it was.

    A step scores up to four candidates for the start or is one step of Adam. A network that returns NaN or infinity ends the mask with
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

    Raises:
        UnknownClassError: the model has no such class.
        ValueError: the clip is not one clip of T frames.
    """
    if clip.ndim != 5 or clip.shape[0] != 1 or clip.shape[2] != len(state.logits):
        raise ValueError(f"a mask of {len(state.logits)} frames does not fit a clip of shape {tuple(clip.shape)}")
    state = copy.deepcopy(state)
    with gradients(), frozen(model):
        clip = ordinary(clip)
        for _ in range(max_steps):
            if state.done or should_stop():
                break
            if state.phase == "start":
                mask_start.score_next(model, clip, target, options, state)
            else:
                _adam_step(model, clip, target, options, state)
            if on_step is not None:
                on_step(state)
    return state


def finished(state: MaskState, options: MaskSettings) -> LearnedMask:
    """Return the mask of a state: the best or the last iterate, as the settings say. A state cut short gives the best it has."""
    kept = state.best if options.keep == "best" or not state.done else state.last
    return LearnedMask(
        operator=options.operator,
        values=tuple(sigmoid(kept.logits if kept else state.logits)),
        objective=_objective(kept),
        steps=state.step,
        converged=state.converged,
        passes=state.passes,
    )


def rescored(model: VideoModel, clip: Tensor, target: int, options: MaskSettings, mask: LearnedMask) -> LearnedMask:
    """Return the mask with its objective computed anew, by a network of higher precision than the one it was learned on. One forward pass.

    A score that is not finite makes the objective None and ``converged`` false.
    """
    masks = torch.tensor([mask.values], dtype=torch.float64)
    (score,) = perturbed_scores(model, clip, operator_matrix(options.operator, masks, options.pair, options.threshold), target)
    l1, tv = (float(term[0]) for term in penalties(masks, options))
    finite = math.isfinite(score)
    objective = Objective(l1 + tv + score, l1, tv, score) if finite else Objective()
    return replace(mask, objective=objective, converged=mask.converged and finite, passes=mask.passes + Passes(forward=1))


def progress(state: MaskState, options: MaskSettings) -> tuple[int, int]:
    """Return (steps done, steps expected at most) for a progress bar; equal once the state is done."""
    total = math.ceil(mask_start.expected_passes(options, state) / ROWS) + options.steps
    done = total if state.done else math.ceil(len(state.scores) / ROWS) + state.step
    return min(done, total), total


def _objective(kept: Iterate | None) -> Objective:
    return Objective(kept.total, kept.l1, kept.tv, kept.score) if kept else Objective()


def _adam_step(model: VideoModel, clip: Tensor, target: int, options: MaskSettings, state: MaskState) -> None:
    """Evaluate the present mask and move its logits; the mask after the last step is evaluated without a gradient."""
    final = state.step >= options.steps
    logits = torch.tensor(state.logits, dtype=torch.float64, requires_grad=not final)
    score, total = _evaluate(model, clip, target, options, logits)
    state.passes += Passes(forward=1)
    if not record(state, options, state.logits, score) or state.last is None:
        state.phase, state.converged = "done", False
        return
    state.history.append(state.last.total)
    state.converged = settled(state.history)
    if final or (options.early_stop and state.converged):
        state.phase = "done"
        return
    (slope,) = torch.autograd.grad(total, logits)
    state.passes += Passes(input_gradient=1)
    if not _move(state, slope.tolist(), options.learning_rate):
        state.phase, state.converged = "done", False


def _evaluate(model: VideoModel, clip: Tensor, target: int, options: MaskSettings, logits: Tensor) -> tuple[float, Tensor]:
    """Return the class probability and the objective of one mask, the latter differentiable in its logits.

    Autograd goes through ``p = W x``: the network hands back dL/dp, and dL/dW is the Gram matrix <g_t, x_s>, a product of T x T x pixels.
    """
    masks = torch.sigmoid(logits)[None]
    matrix = operator_matrix(options.operator, masks, options.pair, options.threshold)
    score = class_scores(model, apply(matrix, clip), target)[0].to(logits.device)
    l1, tv = penalties(masks[0], options)
    return float(score.detach()), l1 + tv + score


def _move(state: MaskState, slope: list[float], rate: float) -> bool:
    """Do one step of Adam (Kingma & Ba 2015) in double precision, as ``torch.optim.Adam`` does.

    Returns False, and leaves the state alone, when a gradient or a moment is not finite.
    """
    moment1 = [BETA1 * m + (1.0 - BETA1) * g for m, g in zip(state.moment1, slope, strict=True)]
    moment2 = [BETA2 * v + (1.0 - BETA2) * g * g for v, g in zip(state.moment2, slope, strict=True)]
    if not all(math.isfinite(value) for value in (*moment1, *moment2)):
        return False
    state.step += 1
    first, second = 1.0 - BETA1**state.step, 1.0 - BETA2**state.step
    state.moment1, state.moment2 = moment1, moment2
    for frame, (m, v) in enumerate(zip(moment1, moment2, strict=True)):
        moved = state.logits[frame] - rate * (m / first) / (math.sqrt(v / second) + EPSILON)
        state.logits[frame] = min(max(moved, -LOGIT_LIMIT), LOGIT_LIMIT)
    return True
