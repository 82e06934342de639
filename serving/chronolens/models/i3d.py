"""I3D: the inflated Inception-v1 network (Carreira & Zisserman 2017) as used by Mänttäri et al. 2020.

Module names follow the public pytorch-i3d checkpoints (``Mixed_4f.b1b.conv3d.weight``), so that importing one is a check, not a renaming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronolens.clips import CellGrid
from chronolens.models.base import VideoNetwork
from chronolens.models.blocks import ConvUnit, GridWalk, MaxPoolSame, even_share, sliding_share


@dataclass(frozen=True)
class I3DConfig:
    """Shape of an I3D network.

    Args:
        num_classes: width of the classifier.
        temporal_strides: of Conv3d_1a, MaxPool_4a and MaxPool_5a. (1, 1, 2) is the authors' "L/2" network, (2, 2, 2) the standard one.
        last_stride: spatial stride of MaxPool_5a. 2 is the standard; 1 lets a 112-pixel clip keep the 7 x 7 map of a 224-pixel one.
        head: ``global`` averages all positions before the classifier (the authors' PyTorch code); ``sliding`` pools (2, 7, 7) at
            stride 1, classifies each step and averages the logits over time (pytorch-i3d, the authors' TensorFlow code).
        dropout: probability before the classifier, in training only.
    """

    num_classes: int = 174
    temporal_strides: tuple[int, int, int] = (1, 1, 2)
    last_stride: int = 2
    head: Literal["global", "sliding"] = "global"
    dropout: float = 0.5


class Inception(nn.Module):
    """Four parallel branches, concatenated: 1x1, 1x1 -> 3x3, 1x1 -> 3x3, max-pool -> 1x1."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        w0, w1a, w1b, w2a, w2b, w3b = widths
        self.b0 = ConvUnit(inputs, w0)
        self.b1a = ConvUnit(inputs, w1a)
        self.b1b = ConvUnit(w1a, w1b, (3, 3, 3))
        self.b2a = ConvUnit(inputs, w2a)
        self.b2b = ConvUnit(w2a, w2b, (3, 3, 3))
        self.b3a = MaxPoolSame((3, 3, 3), (1, 1, 1))
        self.b3b = ConvUnit(inputs, w3b)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The 1x1x1 classifier, named as in pytorch-i3d."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.conv3d(x)
        return scores


_STAGES: dict[str, tuple[int, tuple[int, int, int, int, int, int]]] = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
FEATURES = 1024
SLIDING = (2, 7, 7)
"""Window of the ``sliding`` head."""


class I3D(VideoNetwork):
    """Input (N, 3, T, H, W), output logits (N, num_classes).

    The default heat map is taken at ``Mixed_5c``: (N, 1024, T', H / 32, W / 32) for the standard strides.
    """

    default_layers = ("Mixed_5c",)
    memory_format = torch.channels_last_3d

    def __init__(self, config: I3DConfig) -> None:
        super().__init__()
        self.config = config
        first, fourth, fifth = config.temporal_strides
        last = config.last_stride
        self.Conv3d_1a_7x7 = ConvUnit(3, 64, (7, 7, 7), (first, 2, 2))
        self.MaxPool3d_2a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = ConvUnit(64, 64)
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Mixed_3b, self.Mixed_3c = _stage("Mixed_3b"), _stage("Mixed_3c")
        self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (fourth, 2, 2))
        self.Mixed_4b, self.Mixed_4c, self.Mixed_4d = _stage("Mixed_4b"), _stage("Mixed_4c"), _stage("Mixed_4d")
        self.Mixed_4e, self.Mixed_4f = _stage("Mixed_4e"), _stage("Mixed_4f")
        # as wide as its stride: 2 x 2 x 2 as published; a window of 2 at stride 1 would shift the map by half a cell
        self.MaxPool3d_5a_2x2 = MaxPoolSame((fifth, last, last), (fifth, last, last))
        self.Mixed_5b, self.Mixed_5c = _stage("Mixed_5b"), _stage("Mixed_5c")
        self.dropout = nn.Dropout(config.dropout)
        self.logits = Logits(FEATURES, config.num_classes)
        ends = ("Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c")
        self.stages = {f"stage{number}": (name,) for number, name in enumerate(ends, start=1)}

    def features(self, x: Tensor) -> Tensor:
        """Return the activations of ``Mixed_5c``, (N, 1024, T', H', W')."""
        for name, module in self.named_children():
            if name in ("dropout", "logits"):
                break
            x = module(x)
        return x

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (N, num_classes) from the activations of ``Mixed_5c``."""
        if self.config.head == "global":
            pooled = features.mean(dim=(2, 3, 4), keepdim=True)
        else:
            window = [min(side, size) for side, size in zip(SLIDING, features.shape[2:], strict=True)]
            pooled = F.avg_pool3d(features, window, stride=1)
        scores: Tensor = self.logits(self.dropout(pooled))
        return scores.mean(dim=(2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))

    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        """See :meth:`VideoNetwork.cell_grid`; inside an Inception block every window is centred, so only the trunk counts."""
        walk = GridWalk((frames, height, width))
        for name, module in self.named_children():
            if isinstance(module, ConvUnit | MaxPoolSame):
                walk.same_window(module.kernel, module.stride)
            if name == layer.split(".", maxsplit=1)[0]:
                break
        return walk.grid()

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        if layer not in self.default_layers:
            return None
        weights = self.logits.conv3d.weight.flatten(1)
        if self.config.head == "global":
            return weights, even_share(weights, (steps, height, width))
        return weights, sliding_share(weights, (steps, height, width), SLIDING)


def _stage(name: str) -> Inception:
    return Inception(*_STAGES[name])
