"""Convolution with TensorFlow's "same" padding, shared by the Inception-style networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronolens.clips import CellGrid

Triple = tuple[int, int, int]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return (before, after) so that ``ceil(size / stride)`` positions come out; the odd pixel goes after, as in TensorFlow."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Zero-pad the last three axes of (N, C, T, H, W) for a "same" convolution or pooling."""
    pads: list[int] = []
    for axis in (2, 1, 0):  # F.pad counts from the last axis
        pads.extend(same_padding(x.shape[2 + axis], kernel[axis], stride[axis]))
    return F.pad(x, pads) if any(pads) else x


class GridWalk:
    """Follows the centres of receptive fields through a chain of windows, one size for each axis of (T, H, W).

    ``first`` is the centre of the first cell in input coordinates (pixel 0 reaches from 0 to 1), ``jump`` the distance between cells.
    """

    def __init__(self, size: Triple) -> None:
        self.size = list(size)
        self.first = [0.5, 0.5, 0.5]
        self.jump = [1, 1, 1]

    def window(self, kernel: Triple, stride: Triple, before: Triple) -> None:
        """Pass a convolution or pooling with ``before`` padded positions ahead of the first."""
        for axis in range(3):
            self.first[axis] += ((kernel[axis] - 1) / 2 - before[axis]) * self.jump[axis]
            self.jump[axis] *= stride[axis]
            self.size[axis] = -(-self.size[axis] // stride[axis])

    def same_window(self, kernel: Triple, stride: Triple) -> None:
        """Pass a window with "same" padding."""
        before = [same_padding(self.size[axis], kernel[axis], stride[axis])[0] for axis in range(3)]
        self.window(kernel, stride, (before[0], before[1], before[2]))

    def grid(self) -> CellGrid:
        """Return where the cells are now."""
        first, jump = self.first, self.jump
        return CellGrid((jump[0], jump[1], jump[2]), (first[0], first[1], first[2]))


def even_share(weights: Tensor, shape: Triple) -> Tensor:
    """Return the share (T', H', W') of each position in a global average, on the device and in the type of ``weights``."""
    return torch.full(shape, 1.0 / (shape[0] * shape[1] * shape[2]), device=weights.device, dtype=weights.dtype)


def sliding_share(weights: Tensor, shape: Triple, window: Triple) -> Tensor:
    """Return the share (T', H', W') of each position in the average of all windows of an average pooling at stride 1."""
    ones = torch.ones(1, 1, *shape, device=weights.device, dtype=weights.dtype, requires_grad=True)
    kernel = [min(side, size) for side, size in zip(window, shape, strict=True)]
    with torch.enable_grad():
        pooled = F.avg_pool3d(ones, kernel, stride=1).mean()
    (share,) = torch.autograd.grad(pooled, ones)
    return share[0, 0]


class ConvUnit(nn.Module):
    """Conv3d ("same", no bias) -> BatchNorm (eps 1e-3) -> ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))))


class MaxPoolSame(nn.Module):
    """Max pooling with "same" padding; zero padding is harmless because its input has passed a ReLU."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)
