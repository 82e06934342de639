"""Convolution with TensorFlow's "same" padding, shared by the Inception-style networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

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
