"""The residual network that SlowFast and TSM are made of: blocks, stages and where their cells lie.

Every convolution has three axes, (T, H, W); a two-dimensional network is one whose temporal kernels are 1. Module names follow PySlowFast
(``branch1``, ``branch2.a_bn``), so that importing its checkpoints is a check, not a renaming. Strides lie on the 3 x 3 convolution.

Source: He et al. 2016; Feichtenhofer et al. 2019, table 1; Lin et al. 2019, figure 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronolens.errors import OptionsError
from chronolens.models.blocks import GridWalk, Triple

DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
"""Blocks of the four stages; those of 18 layers are basic blocks, those of 50 bottlenecks."""
STAGES = ("stage2", "stage3", "stage4", "stage5")


@dataclass(frozen=True)
class StagePlan:
    """One residual stage.

    Args:
        inputs, outputs, inner: channels that come in, go out, and pass the 3 x 3 convolution.
        blocks: how many.
        stride: spatial, of the first block.
        temporal_kernel: of the first convolution of each block, odd.
        bottleneck: 1 x 1, 3 x 3, 1 x 1 convolutions instead of two of 3 x 3.
        shift: the share ``1 / shift`` of the channels that moves by one frame each way before each block; 0 for none.
    """

    inputs: int
    outputs: int
    inner: int
    blocks: int
    stride: int
    temporal_kernel: int
    bottleneck: bool
    shift: int = 0


def check_numbers(config: object, least: dict[str, int], choices: dict[str, tuple[object, ...]]) -> None:
    """Refuse an option that is no whole number of at least so much, or none of the words it may be.

    Raises:
        OptionsError: with the pointer of the option.
    """
    for name, lowest in least.items():
        value = getattr(config, name)
        if type(value) is not int or value < lowest:
            raise OptionsError(f"{name} is a whole number of at least {lowest}, not {str(value)[:40]}", pointer=f"/{name}")
    for name, words in choices.items():
        value = getattr(config, name)
        if not any(type(value) is type(word) and value == word for word in words):
            raise OptionsError(f"{name} cannot be {str(value)[:40]!r}", pointer=f"/{name}", allowed=[str(word) for word in words])


def plans(
    depth: int, width: int, inputs: tuple[int, int, int, int], kernels: tuple[int, int, int, int], last_stride: int, shift: int = 0
) -> list[StagePlan]:
    """Return the four stages of a residual network.

    Args:
        depth: a key of ``DEPTHS``.
        width: channels of the stem, before any that are joined to it.
        inputs: channels that come into each stage.
        kernels: temporal kernel of each stage.
        last_stride: spatial stride of the last stage.
        shift: see :class:`StagePlan`.

    Raises:
        OptionsError: there is no network of this depth.
    """
    if depth not in DEPTHS:
        raise OptionsError(f"there is no residual network of {depth} layers", pointer="/depth", allowed=[str(known) for known in DEPTHS])
    bottleneck = depth >= 50
    strides = (1, 2, 2, last_stride)
    found = []
    for level, blocks in enumerate(DEPTHS[depth]):
        inner = width * 2**level
        outputs = inner * 4 if bottleneck else inner
        found.append(StagePlan(inputs[level], outputs, inner, blocks, strides[level], kernels[level], bottleneck, shift))
    return found


def stage_widths(depth: int, width: int) -> tuple[int, int, int, int]:
    """Return the channels that leave each of the four stages."""
    factor = 4 if depth >= 50 else 1
    return width * factor, width * 2 * factor, width * 4 * factor, width * 8 * factor


def conv(inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Conv3d:
    """Return a convolution without bias, padded by half its odd kernel."""
    return nn.Conv3d(inputs, outputs, kernel, stride, (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2), bias=False)


def shift_in_time(x: Tensor, share: int) -> Tensor:
    """Move channels of (N, C, T, H, W) by one frame: the first ``C // share`` show the frame after, the next as many the frame before.

    What comes from beyond the clip is zero.

    Source: Lin et al. 2019 (TSM), section 3; bidirectional shift as in the authors' code.
    """
    fold = x.shape[1] // share
    if not fold:
        return x
    after, before, still = x[:, :fold], x[:, fold : 2 * fold], x[:, 2 * fold :]
    blank = torch.zeros_like(after[:, :, :1])
    return torch.cat([torch.cat([after[:, :, 1:], blank], dim=2), torch.cat([blank, before[:, :, :-1]], dim=2), still], dim=1)


class Bottleneck(nn.Module):
    """(t, 1, 1), (1, 3, 3) and (1, 1, 1) convolutions, the first two with ReLU."""

    def __init__(self, plan: StagePlan, inputs: int, stride: int) -> None:
        super().__init__()
        self.a = conv(inputs, plan.inner, (plan.temporal_kernel, 1, 1))
        self.a_bn = nn.BatchNorm3d(plan.inner)
        self.b = conv(plan.inner, plan.inner, (1, 3, 3), (1, stride, stride))
        self.b_bn = nn.BatchNorm3d(plan.inner)
        self.c = conv(plan.inner, plan.outputs, (1, 1, 1))
        self.c_bn = nn.BatchNorm3d(plan.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a_bn(self.a(x)))
        x = F.relu(self.b_bn(self.b(x)))
        residual: Tensor = self.c_bn(self.c(x))
        return residual


class Basic(nn.Module):
    """(t, 3, 3) and (1, 3, 3) convolutions, the first with ReLU."""

    def __init__(self, plan: StagePlan, inputs: int, stride: int) -> None:
        super().__init__()
        self.a = conv(inputs, plan.inner, (plan.temporal_kernel, 3, 3), (1, stride, stride))
        self.a_bn = nn.BatchNorm3d(plan.inner)
        self.b = conv(plan.inner, plan.outputs, (1, 3, 3))
        self.b_bn = nn.BatchNorm3d(plan.outputs)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.b_bn(self.b(F.relu(self.a_bn(self.a(x)))))
        return residual


class ResBlock(nn.Module):
    """``ReLU(shortcut + residual)``; the shift lies inside the residual branch, so the shortcut keeps every frame as it is."""

    def __init__(self, plan: StagePlan, inputs: int, stride: int) -> None:
        super().__init__()
        self.shift, self.stride = plan.shift, stride
        if inputs != plan.outputs or stride != 1:
            self.branch1 = conv(inputs, plan.outputs, (1, 1, 1), (1, stride, stride))
            self.branch1_bn = nn.BatchNorm3d(plan.outputs)
        self.branch2 = Bottleneck(plan, inputs, stride) if plan.bottleneck else Basic(plan, inputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        moved = shift_in_time(x, self.shift) if self.shift else x
        kept = self.branch1_bn(self.branch1(x)) if hasattr(self, "branch1") else x
        return F.relu(kept + self.branch2(moved))


class Stem(nn.Module):
    """(t, 7, 7) convolution of stride (1, 2, 2), BatchNorm, ReLU, spatial max-pooling 3 of stride 2."""

    def __init__(self, width: int, temporal_kernel: int) -> None:
        super().__init__()
        self.conv = conv(3, width, (temporal_kernel, 7, 7), (1, 2, 2))
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        return pool_frames(F.relu(self.bn(self.conv(x))))


def pool_frames(x: Tensor) -> Tensor:
    """Max-pool each frame of (N, C, T, H, W) by 3 x 3 at stride 2; in two axes, which PyTorch does several times as fast as in three."""
    clips, _, steps = x.shape[:3]
    pooled = F.max_pool2d(x.transpose(1, 2).flatten(0, 1), 3, 2, 1)
    return pooled.view(clips, steps, *pooled.shape[1:]).transpose(1, 2)


def blocks(plan: StagePlan) -> list[ResBlock]:
    """Return the blocks of a stage in order."""
    first = ResBlock(plan, plan.inputs, plan.stride)
    return [first, *(ResBlock(plan, plan.outputs, 1) for _ in range(plan.blocks - 1))]


def with_channels_last(network: nn.Module) -> None:
    """Order the weights in memory as (T, H, W, C); convolutions follow them, and those with flat kernels are up to 15 times as fast."""
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def walk_stem(walk: GridWalk, *, pooled: bool) -> None:
    """Pass the stem, with its pooling or without."""
    walk.window((1, 7, 7), (1, 2, 2), (0, 3, 3))
    if pooled:
        walk.window((1, 3, 3), (1, 2, 2), (0, 1, 1))


def walk_block(walk: GridWalk, block: ResBlock, inside: str = "") -> None:
    """Pass a block up to one of its modules (``branch2.a``), or to its end.

    The stride lies on the 3 x 3 convolution: what comes before it still has the cells of the block's input.
    """
    before = isinstance(block.branch2, Bottleneck) and inside in ("branch2.a", "branch2.a_bn")
    if not before:
        walk.window((1, 3, 3), (1, block.stride, block.stride), (0, 1, 1))
