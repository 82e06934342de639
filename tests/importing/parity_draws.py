"""Random tensors under the names of a checkpoint, and the few operations that every second derivation is written with.

Nothing here or in the other ``parity_*`` modules is taken from :mod:`chronolens.models`: they say a second time, with functional calls
on tensors read by their original names, what the original code of a public checkpoint computes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class Words(NamedTuple):
    """How a framework ends the names of a weight, a bias and the tensors of a batch normalisation."""

    weight: str = ".weight"
    bias: str = ".bias"
    scale: str = ".weight"
    shift: str = ".bias"
    mean: str = ".running_mean"
    variance: str = ".running_var"
    batches: str = ".num_batches_tracked"


TORCH = Words()
CAFFE2 = Words("_w", "_b", "_s", "_b", "_rm", "_riv", "")


class Draws:
    """The tensors of one checkpoint, drawn from one seed in the order in which they are named."""

    def __init__(self, seed: int, words: Words = TORCH) -> None:
        self.state: State = {}
        self._random = torch.Generator().manual_seed(seed)
        self._words = words

    def conv(self, name: str, channels: int, inputs: int, *kernel: int, bias: bool = False) -> None:
        """Add a kernel that keeps the mean square of what a ReLU lets through."""
        fan = inputs * math.prod(kernel)
        self.state[name + self._words.weight] = self._normal(channels, inputs, *kernel) * math.sqrt(2 / fan)
        if bias:
            self.state[name + self._words.bias] = self._normal(channels) / 4

    def norm(self, name: str, channels: int, scale: float = 1.0) -> None:
        """Add a batch normalisation every statistic of which matters: variances around one, weights around one, a few of them negative."""
        words = self._words
        sign = torch.where(self._between(0, 1, channels) < 0.1, -1.0, 1.0)
        self.state[name + words.scale] = scale * sign * self._between(0.5, 1.5, channels)
        self.state[name + words.shift] = self._normal(channels) / 4
        self.state[name + words.mean] = self._normal(channels) / 4
        self.state[name + words.variance] = self._between(0.5, 1.5, channels)
        if words.batches:
            self.state[name + words.batches] = torch.tensor(7)

    def linear(self, name: str, classes: int, *inputs: int, gain: float) -> None:
        """Add a classifier with a bias."""
        self.state[name + self._words.weight] = self._normal(classes, *inputs) * gain / math.sqrt(inputs[0])
        self.state[name + self._words.bias] = self._normal(classes) / 2

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._random)

    def _between(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._random)


def batch_norm(x: Tensor, state: State, name: str, eps: float, words: Words = TORCH) -> Tensor:
    """Return ``(x - mean) / sqrt(variance + eps) * scale + shift`` for each channel of (N, C, ...)."""
    scale = state[name + words.scale] / (state[name + words.variance] + eps).sqrt()
    shift = state[name + words.shift] - state[name + words.mean] * scale
    shape = (1, -1, *[1] * (x.dim() - 2))
    return x * scale.view(shape) + shift.view(shape)


def pixels(seed: int, *shape: int) -> Tensor:
    """Return a prepared clip (N, 3, T, H, W) between -1 and 1 with a different motion in each channel, so that time has a direction."""
    n, channels, frames, height, width = shape
    random = torch.Generator().manual_seed(seed)
    noise = torch.rand(n, channels, frames, height, width, generator=random)
    drift = torch.linspace(0, 1, frames).pow(2).view(1, 1, -1, 1, 1)
    blank = F.interpolate(torch.rand(n, channels, 1, 4, 4, generator=random), (1, height, width), mode="trilinear")
    return (noise + drift + blank) * 2 / 3 - 1
