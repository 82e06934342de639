"""The freeze and reverse operators as T x T matrices: the perturbed clip is ``p = W x`` along the time axis.

Everything is differentiable in the masks and computed for a batch of masks at once, with no loop over frames. A mask holds one value in
[0, 1] per frame: 0 leaves the frame alone, 1 perturbs it fully.

Source: Mänttäri, Broomé et al. 2020, and the authors' public code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chronolens.errors import OptionsError
from chronolens.explain.words import PAIR_RULES, RUN_THRESHOLD, PairRule


def freeze_matrix(masks: Tensor) -> Tensor:
    """Return the matrices that hold frames back: ``p_0 = x_0``, ``p_t = (1 - m_t) x_t + m_t p_{t-1}``.

    Unrolled, frame s enters frame t with the weight ``(1 - m_s) * m_{s+1} * ... * m_t``, and frame 0 without its factor ``1 - m_0``:
    ``m_0`` has no effect.

    Args:
        masks: (B, T) floating point, values in [0, 1], T >= 1.

    Returns:
        (B, T, T) of the same dtype, lower triangular, rows summing to 1; zeros give the identity.

    Raises:
        ValueError: masks is not (B, T).

    Source: Mänttäri et al. 2020; closed form in the reference facts, section 1.
    """
    _, frames = _shape(masks)
    step = torch.arange(frames, device=masks.device)
    later = step[:, None] > step[None, :]
    kept = torch.where(later, masks[:, :, None], torch.ones_like(masks)[:, :, None])
    carried = torch.cumprod(kept, dim=1) * (later | (step[:, None] == step[None, :]))
    entering = torch.where(step == 0, torch.ones_like(masks), 1.0 - masks)
    return carried * entering[:, None, :]


def reverse_matrix(masks: Tensor, threshold: float = RUN_THRESHOLD, pair: PairRule = "earlier") -> Tensor:
    """Return the matrices that reverse every active run, a maximal run of consecutive frames with ``m > threshold``.

    Frame a of a run and its mirror image b are blended with one value v: ``p_a = (1 - v) x_a + v x_b`` and ``p_b = (1 - v) x_b + v x_a``.
    The middle frame of an odd run stays.

    Args:
        masks: (B, T) floating point, values in [0, 1], T >= 1.
        threshold: in [0, 1]; a frame takes part when its value is strictly above. Where it starts or stops to take part p jumps.
        pair: ``earlier`` uses the value of the earlier frame of a pair for both (published; the later half of a run gets no gradient);
            ``mean`` uses the mean of the two values, so that the gradient reaches both halves.

    Returns:
        (B, T, T) of the same dtype, rows summing to 1; zeros give the identity, ones the mirrored clip.

    Raises:
        OptionsError: unknown pair rule or a threshold outside [0, 1].
        ValueError: masks is not (B, T).

    Source: Mänttäri et al. 2020; the rule ``mean`` is ours.
    """
    if pair not in PAIR_RULES:
        raise OptionsError(f"Unknown pair rule {str(pair)[:40]!r}.", pointer="/mask/pair", allowed=PAIR_RULES)
    if not 0.0 <= threshold <= 1.0:
        raise OptionsError("The threshold must lie between 0 and 1.", pointer="/mask/threshold", limit=1, observed=threshold)
    _, frames = _shape(masks)
    step = torch.arange(frames, device=masks.device).expand_as(masks)
    partner = _partners(masks > threshold)
    mirrored = masks.gather(1, partner)
    value = torch.where(partner < step, mirrored, masks) if pair == "earlier" else (masks + mirrored) / 2
    value = torch.where(partner == step, torch.zeros_like(value), value)[:, :, None]
    identity = torch.eye(frames, dtype=masks.dtype, device=masks.device)
    swap = identity[partner]
    return (1.0 - value) * identity + value * swap


def _partners(active: Tensor) -> Tensor:
    """Return for each frame (B, T) the index of its mirror image in its active run; inactive frames are their own."""
    frames = active.shape[1]
    step = torch.arange(frames, device=active.device).expand_as(active)
    edge = torch.zeros_like(active[:, :1])
    starts = active & ~torch.cat([edge, active[:, :-1]], dim=1)
    ends = active & ~torch.cat([active[:, 1:], edge], dim=1)
    first = torch.where(starts, step, 0).cummax(dim=1).values
    last = torch.where(ends, step, frames).flip(1).cummin(dim=1).values.flip(1)
    return torch.where(active, first + last - step, step)


def apply(matrix: Tensor, clip: Tensor) -> Tensor:
    """Return the perturbed clips ``p = W x``.

    Args:
        matrix: (B, T, T) from one of the functions above.
        clip: (B, C, T, H, W), or (1, C, T, H, W) to perturb one clip in B ways.

    Returns:
        (B, C, T, H, W) of the clip's dtype.

    Raises:
        ValueError: the shapes do not fit.
    """
    if clip.ndim != 5 or matrix.ndim != 3 or matrix.shape[1:] != (clip.shape[2], clip.shape[2]) or clip.shape[0] not in (1, len(matrix)):
        raise ValueError(f"cannot apply matrices of shape {tuple(matrix.shape)} to clips of shape {tuple(clip.shape)}")
    pixels = torch.matmul(matrix.to(clip)[:, None], clip.flatten(3))
    return pixels.reshape(*pixels.shape[:3], *clip.shape[3:])


def _shape(masks: Tensor) -> tuple[int, int]:
    if masks.ndim != 2 or masks.shape[1] < 1 or not masks.is_floating_point():
        raise ValueError(f"masks must be floating point (B, T), not {masks.dtype} of shape {tuple(masks.shape)}")
    return masks.shape[0], masks.shape[1]
