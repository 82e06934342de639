"""I3D a second time: pytorch-i3d's names, TensorFlow's "same" padding, and the two heads.

Facts: Carreira & Zisserman 2017, figure 3 and table of branches (Szegedy et al. 2015, table 1); github.com/piergiaj/pytorch-i3d;
github.com/interpreting-video-features/interpreting-video-features, ``I3D_doubled``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tests.importing.parity_draws import Draws, State, batch_norm
from torch import Tensor

BRANCHES = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
"""Inputs; the 1x1 branch; 1x1 then 3x3; 1x1 then 3x3 (5x5 in the paper, 3x3 in all public code); the branch after pooling."""


def checkpoint(seed: int, classes: int, *, prefix: str = "", counts: bool = True) -> State:
    """Return every tensor of a checkpoint.

    Args:
        seed: of the random numbers.
        classes: width of the classifier.
        prefix: ``module.`` where the network was saved inside DataParallel.
        counts: with ``num_batches_tracked``, which files of PyTorch 0.3 do not have.
    """
    draws = Draws(seed)
    for name, channels, inputs, kernel in [("Conv3d_1a_7x7", 64, 3, 7), ("Conv3d_2b_1x1", 64, 64, 1), ("Conv3d_2c_3x3", 192, 64, 3)]:
        _unit(draws, prefix + name, channels, inputs, kernel)
    for name, (inputs, one, three_in, three, five_in, five, pooled) in BRANCHES.items():
        for branch, channels, sees, kernel in [
            ("b0", one, inputs, 1),
            ("b1a", three_in, inputs, 1),
            ("b1b", three, three_in, 3),
            ("b2a", five_in, inputs, 1),
            ("b2b", five, five_in, 3),
            ("b3b", pooled, inputs, 1),
        ]:
            _unit(draws, f"{prefix}{name}.{branch}", channels, sees, kernel)
    draws.linear(f"{prefix}logits.conv3d", classes, 1024, 1, 1, 1, gain=0.5)
    return {key: tensor for key, tensor in draws.state.items() if counts or not key.endswith("num_batches_tracked")}


def _unit(draws: Draws, name: str, channels: int, inputs: int, kernel: int) -> None:
    draws.conv(f"{name}.conv3d", channels, inputs, kernel, kernel, kernel)
    draws.norm(f"{name}.bn", channels)


def logits(
    state: State,
    clip: Tensor,
    *,
    temporal_strides: tuple[int, int, int],
    head: str,
    eps: float = 1e-3,
    more_in_front: bool = False,
) -> Tensor:
    """Return (N, num_classes).

    Args:
        state: the checkpoint, without prefix.
        clip: (N, 3, T, H, W).
        temporal_strides: of the first convolution and of the pools before Mixed_4b and Mixed_5b.
        head: ``sliding`` or ``global``. The original pools 2 x 7 x 7 and leaves the mean over what remains to its callers.
        eps: of every normalisation.
        more_in_front: a mutation: an odd sum of padding has its larger half in front.
    """

    def unit(x: Tensor, name: str, stride: Sequence[int] = (1, 1, 1)) -> Tensor:
        kernel = state[f"{name}.conv3d.weight"]
        x = F.conv3d(_same(x, kernel.shape[2:], stride, more_in_front), kernel, stride=tuple(stride))
        return batch_norm(x, state, f"{name}.bn", eps).relu()

    def pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
        return F.max_pool3d(_same(x, kernel, stride, more_in_front), tuple(kernel), tuple(stride))

    def mixed(x: Tensor, name: str) -> Tensor:
        branches = [
            unit(x, f"{name}.b0"),
            unit(unit(x, f"{name}.b1a"), f"{name}.b1b"),
            unit(unit(x, f"{name}.b2a"), f"{name}.b2b"),
            unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"),
        ]
        return torch.cat(branches, 1)

    first, fourth, fifth = temporal_strides
    x = unit(clip, "Conv3d_1a_7x7", (first, 2, 2))
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for name in BRANCHES:
        if name == "Mixed_4b":
            x = pool(x, (3, 3, 3), (fourth, 2, 2))
        if name == "Mixed_5b":
            x = pool(x, (2, 2, 2), (fifth, 2, 2))
        x = mixed(x, name)
    steps, *places = x.shape[2:]
    window = [2, *(min(7, place) for place in places)] if head == "sliding" else [steps, *places]
    x = F.avg_pool3d(x, window, stride=1)
    x = F.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"])
    return x.flatten(2).mean(2)


def _same(x: Tensor, kernel: Sequence[int], stride: Sequence[int], more_in_front: bool) -> Tensor:
    """Pad with zeros as TensorFlow does: ``ceil(size / stride)`` outputs, the larger half of an odd sum behind."""
    padding: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        small, large = total // 2, total - total // 2
        padding = [*((large, small) if more_in_front else (small, large)), *padding]
    return F.pad(x, padding)
