"""The published mask loop kept on the device: freeze and reverse masks of some clips in one batch, no number read by the host on the way.

The product reads every score, which lets it stop, cancel and resume; on a GPU the host then sets the pace. Here masks, moments, step count
and history are tensors that one iteration (mix, forward, input gradient, objective, Adam) updates in place, so that it can be captured in a
CUDA graph and replayed. The numbers are those of the presets ``authors`` and ``paper``.

Source: Mänttäri, Broomé et al. 2020; Kingma and Ba 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from chronolens.explain.adam import BETA1, BETA2, EPSILON, LOGIT_LIMIT
from chronolens.explain.mask_state import penalties
from chronolens.explain.perturbation import apply, reverse_matrix
from chronolens.explain.presets import MAX_STEPS, MaskSettings, settings
from chronolens.explain.protocol import Passes, VideoModel, frozen, gradients
from chronolens.explain.temporal_mask import advance, begin
from chronolens.explain.words import OPERATORS

WARM_UP = 3
"""Iterations before the capture, in which cuDNN and cuBLAS choose kernels and take their workspaces."""


@dataclass(frozen=True)
class DeviceMasks:
    """What a run learned; the first axis is freeze, then reverse.

    Args:
        values: (2, B, T) float64, the masks after the last step.
        history: (2, B, steps + 1) float64, the objective before each step and after the last. NaN stays NaN: nobody looked on the way.
    """

    values: Tensor
    history: Tensor


def freeze_matrix_of_logits(logits: Tensor) -> Tensor:
    """Return ``freeze_matrix(sigmoid(logits))`` by a way whose backward pass reads nothing on the host.

    The library's is made by ``cumprod``, whose gradient asks the host whether a factor is zero. A sigmoid never is, so that products of
    masks are differences of sums of logarithms here.

    Args:
        logits: (B, T), finite.

    Returns:
        (B, T, T) of the same dtype.
    """
    step = torch.arange(logits.shape[1], device=logits.device)
    sums = torch.nn.functional.logsigmoid(logits).cumsum(dim=1)
    kept = (sums[:, :, None] - sums[:, None, :]).masked_fill(step[:, None] < step[None, :], -torch.inf).exp()
    entering = torch.sigmoid(-logits).masked_fill(step == 0, 1.0)
    return kept * entering[:, None, :]


def central_starts(model: VideoModel, clips: Tensor, targets: Sequence[int], preset: str = "authors") -> tuple[Tensor, Passes]:
    """Return the logits (2, B, T) float64 from which a published preset starts, found by the product's own search, and what it cost."""
    rows: list[list[list[float]]] = []
    passes = Passes()
    for operator in OPERATORS:
        rule = settings(preset, operator)
        rows.append([])
        for clip, target in zip(clips[:, None], targets, strict=True):
            state = begin(rule, clip.shape[2])
            while state.phase == "start":
                state = advance(model, clip, target, rule, state, max_steps=1)
            if state.adam is None:
                raise ValueError(f"preset {preset!r} does not use Adam")
            rows[-1].append(state.adam.logits)
            passes += state.passes
    return torch.tensor(rows, dtype=torch.float64, device=clips.device), passes


class DeviceLoop:
    """Adam on the freeze and reverse masks of B clips, one row of the batch each: B freeze rows, then B reverse rows.

    Args:
        model: a network in evaluation mode, in any precision that takes and returns float32, on the device of the clips.
        clips: (B, C, T, H, W) prepared clips.
        targets: B class indices.
        starts: (2, B, T) logits, from :func:`central_starts`.
        preset: ``authors`` or ``paper``.
        graph: capture the iteration in a CUDA graph; by default where the clips are on a CUDA device, nowhere else.
        compiled: run the network through ``torch.compile``.

    Raises:
        ValueError: shapes that do not fit, or a graph asked for where there is no CUDA device.
    """

    def __init__(
        self,
        model: VideoModel,
        clips: Tensor,
        targets: Sequence[int],
        starts: Tensor,
        *,
        preset: str = "authors",
        graph: bool | None = None,
        compiled: bool = False,
    ) -> None:
        batch, frames = clips.shape[0], clips.shape[2]
        if starts.shape != (2, batch, frames) or len(targets) != batch:
            raise ValueError(f"starts {tuple(starts.shape)} and {len(targets)} targets do not fit {batch} clips of {frames} frames")
        self._captures = clips.is_cuda if graph is None else graph
        if self._captures and not clips.is_cuda:
            raise ValueError("a CUDA graph needs clips on a CUDA device")
        self._rule: MaskSettings = settings(preset, "reverse")  # beyond the operator both rules are the same
        self._model = model
        self._network = cast(VideoModel, torch.compile(cast(nn.Module, model), dynamic=False)) if compiled else model
        self._clips = torch.cat([clips, clips])
        self._targets = torch.tensor([*targets, *targets], device=clips.device)[:, None]
        self._starts = starts.to(clips.device, torch.float64).flatten(0, 1)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._allocate()

    def _allocate(self) -> None:
        """Make the state that the iteration updates in place; its addresses never change, as a graph needs."""
        start = self._starts
        self._logits = start.clone().requires_grad_()
        self._moment1, self._moment2 = torch.zeros_like(start), torch.zeros_like(start)
        self._power1, self._power2 = start.new_ones(()), start.new_ones(())
        self._step = torch.zeros(1, dtype=torch.int64, device=start.device)
        self._history = start.new_zeros(MAX_STEPS + 1, len(start))

    def run(self, steps: int) -> DeviceMasks:
        """Learn the masks from their starts; the result stays on the device, and reading it is the first time the host waits.

        Args:
            steps: iterations, 1 to 1000.
        """
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"steps must lie between 1 and {MAX_STEPS}")
        with gradients(), frozen(self._model):
            if self._captures and self._graph is None:
                self._capture()
            self._reset()
            for _ in range(steps):
                if self._graph is None:
                    self._iterate()
                else:
                    self._graph.replay()
            with torch.no_grad():
                self._note(self._objective())
        shape = (2, len(self._clips) // 2, -1)
        return DeviceMasks(torch.sigmoid(self._logits.detach()).view(shape), self._history[: steps + 1].T.clone().reshape(shape))

    def _capture(self) -> None:
        """Record one iteration. The warm-up before it moves the masks, so a run resets them afterwards."""
        self._reset()
        side = torch.cuda.Stream(self._clips.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._clips.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._iterate()
        torch.cuda.current_stream(self._clips.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._iterate()
        self._graph = graph

    def _reset(self) -> None:
        with torch.no_grad():
            self._logits.copy_(self._starts)
            for zeroed in (self._moment1, self._moment2, self._step, self._history):
                zeroed.zero_()
            self._power1.fill_(1.0)
            self._power2.fill_(1.0)

    def _iterate(self) -> None:
        totals = self._objective()
        (slope,) = torch.autograd.grad(totals.sum(), self._logits)  # rows are independent, so one sum gives every mask its own slope
        with torch.no_grad():
            self._note(totals)
            self._move(slope)

    def _objective(self) -> Tensor:
        """Return the objectives (2 B,)."""
        masks = torch.sigmoid(self._logits)
        held = freeze_matrix_of_logits(self._logits.chunk(2)[0])
        turned = reverse_matrix(masks.chunk(2)[1], self._rule.threshold, self._rule.pair)
        mixed = apply(torch.cat([held, turned]), self._clips)
        scores = torch.softmax(self._network(mixed).double(), dim=1).gather(1, self._targets)[:, 0]
        l1, tv = penalties(masks, self._rule)
        return l1 + tv + scores

    def _note(self, totals: Tensor) -> None:
        self._history.index_copy_(0, self._step, totals.detach()[None])
        self._step.add_(1)

    def _move(self, slope: Tensor) -> None:
        """Do the step of :meth:`chronolens.explain.adam.Adam.move` on tensors."""
        self._moment1.mul_(BETA1).add_(slope, alpha=1.0 - BETA1)
        self._moment2.mul_(BETA2).addcmul_(slope, slope, value=1.0 - BETA2)
        self._power1.mul_(BETA1)
        self._power2.mul_(BETA2)
        first = self._moment1 / (1.0 - self._power1)
        second = self._moment2 / (1.0 - self._power2)
        self._logits.sub_(self._rule.learning_rate * first / (second.sqrt() + EPSILON)).clamp_(-LOGIT_LIMIT, LOGIT_LIMIT)
