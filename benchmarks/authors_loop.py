"""The authors' loop for a temporal mask, ported from the published facts with what makes it slow left in. The yardstick of ``bench_masks``.

What is theirs, and costs: one clip is pushed as a batch of 16 copies; the network's parameters stay trainable, so that every backward pass
computes their gradients too; frames are frozen and reversed one by one in Python, which reads the mask on the host; the early stop never
fires, because the previous loss is never updated. Where the facts are silent the cheaper way is taken.

Source: Mänttäri, Broomé et al. 2020, and the authors' public PyTorch code, as far as described in the reference facts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chronolens.explain.protocol import Passes
from chronolens.explain.words import Operator

BATCH = 16
STEPS = 300
LEARNING_RATE = 0.2
L1, TV, BETA = 0.01, 0.02, 3.0
START_LOGIT = 5.0
KEPT_EFFECT = 0.9
RUN = 0.1
SMALL_CHANGE = 1e-5


def trainable_copy(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose parameters take gradients, as a network is that was just loaded."""
    return copy.deepcopy(network).eval().requires_grad_(True)


def whole_passes(frames: int, batch: int = BATCH, steps: int = STEPS, start: int | None = None) -> int:
    """Return the passes of one clip through the network for one mask: three for each copy and step, one for each copy and start.

    Args:
        frames: T of the clip.
        batch: copies of the clip in each pass.
        steps: iterations.
        start: forward passes of the search for a start; when None the most it can take: the clip, the clip held at its first frame, and
            the T / 2 - 1 central masks.
    """
    forwards = frames // 2 + 1 if start is None else start
    return batch * (3 * steps + forwards)


def authors_start(model: nn.Module, clip: Tensor, target: int, operator: Operator, batch: int = BATCH) -> tuple[list[float], Passes]:
    """Return the logits (T,) of the first central mask that loses a tenth of the effect, else of the smallest one, and the search's cost.

    Args:
        model, clip, target, operator, batch: as for :func:`authors_iterations`.
    """
    frames = clip.shape[2]
    pushed = clip.repeat(batch, 1, 1, 1, 1)
    mask = torch.ones(frames, device=clip.device)
    with torch.no_grad():
        original = _score(model, pushed, target)
        full = _score(model, perturbed(pushed, mask, "freeze"), target)  # the yardstick is the frozen clip, whichever the operator
        scored = 2
        for off in range(1, frames // 2):
            mask = torch.zeros(frames, device=clip.device)
            mask[off : frames - off] = 1.0
            effect = original - _score(model, perturbed(pushed, mask, operator), target)
            scored += 1
            if original != full and float(effect / (original - full)) < KEPT_EFFECT:
                break
    logits: list[float] = torch.where(mask > 0, START_LOGIT, -START_LOGIT).tolist()
    return logits, Passes(forward=scored * batch)


def authors_iterations(
    model: nn.Module,
    clip: Tensor,
    target: int,
    operator: Operator,
    steps: int = STEPS,
    batch: int = BATCH,
    start: Sequence[float] | None = None,
) -> tuple[list[float], list[float], Passes]:
    """Learn one mask as the authors do.

    Args:
        model: from :func:`trainable_copy`; its parameters are left with the sum of the gradients of all steps, which nobody clears.
        clip: (1, C, T, H, W) prepared clip.
        target: class index.
        operator: ``freeze`` or ``reverse``.
        steps: iterations of Adam.
        batch: copies of the clip in each pass, 16 in the authors' code. They do not change the result.
        start: T logits to start from; when None they are searched for by :func:`authors_start`.

    Returns:
        T mask values after the last step, the objective before each step, and what it cost.
    """
    logits, passes = (list(start), Passes()) if start is not None else authors_start(model, clip, target, operator, batch)
    pushed = clip.repeat(batch, 1, 1, 1, 1)
    moved = torch.tensor(logits, device=clip.device, requires_grad=True)
    optimiser = torch.optim.Adam([moved], lr=LEARNING_RATE)
    history: list[float] = []
    previous = math.inf  # never updated, so the stop below never fires
    for _ in range(steps):
        mask = torch.sigmoid(moved)
        score = _score(model, perturbed(pushed, mask, operator), target)
        loss = L1 * mask.abs().sum() + TV * _rooted_variation(mask) ** BETA + score
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        passes += Passes(forward=batch, input_gradient=batch, weight_gradient=batch)
        history.append(float(loss.detach()))
        if abs(previous - history[-1]) < SMALL_CHANGE:
            break
    values: list[float] = torch.sigmoid(moved.detach()).tolist()
    return values, history, passes


def perturbed(clips: Tensor, mask: Tensor, operator: Operator) -> Tensor:
    """Return copies (N, C, T, H, W) of a clip, frozen or reversed frame by frame by one mask (T,)."""
    frames = _frozen(clips, mask) if operator == "freeze" else _reversed(clips, mask)
    return torch.stack(frames, dim=2)


def _frozen(clips: Tensor, mask: Tensor) -> list[Tensor]:
    frames = list(clips.unbind(2))
    for step in range(1, len(frames)):
        frames[step] = (1 - mask[step]) * frames[step] + mask[step] * frames[step - 1]
    return frames


def _reversed(clips: Tensor, mask: Tensor) -> list[Tensor]:
    frames = list(clips.unbind(2))
    for run in _runs(mask):
        for first, last in zip(run[: len(run) // 2], reversed(run), strict=False):
            early, late, value = frames[first], frames[last], mask[first]
            frames[first] = (1 - value) * early + value * late
            frames[last] = (1 - value) * late + value * early
    return frames


def _runs(mask: Tensor) -> list[list[int]]:
    """Return the maximal runs of consecutive frames whose value is above 0.1."""
    runs: list[list[int]] = []
    for step in range(len(mask)):
        if float(mask[step].detach()) > RUN:
            if runs and runs[-1][-1] == step - 1:
                runs[-1].append(step)
            else:
                runs.append([step])
    return runs


def _rooted_variation(mask: Tensor) -> Tensor:
    """Return the root of the total variation; the loss raises it again, which has no gradient at a flat mask."""
    inner = mask[1:-1]
    steps = (mask[:-2] - inner).abs() ** BETA + (mask[2:] - inner).abs() ** BETA
    return steps.sum() ** (1 / BETA)


def _score(model: nn.Module, clips: Tensor, target: int) -> Tensor:
    """Return the softmax probability of the first copy; the others are computed and not looked at."""
    score: Tensor = torch.softmax(model(clips), dim=1)[0, target]
    return score
