"""C3D: eight 3 x 3 x 3 convolutions and three linear layers (Tran et al. 2015), the model of Huang et al. 2018."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronolens.clips import CellGrid
from chronolens.errors import OptionsError
from chronolens.models.base import VideoNetwork
from chronolens.models.blocks import GridWalk, Triple


@dataclass(frozen=True)
class C3DConfig:
    """Shape of a C3D network.

    Args:
        num_classes: width of the classifier; 487 for Sports-1M, 101 for UCF101.
        frames, height, width: of the clip, all but the first pooling halve them; the linear layers depend on them.
        hidden: width of the two linear layers before the classifier.
        dropout: probability before each of the last two linear layers, in training only.
    """

    num_classes: int = 174
    frames: int = 16
    height: int = 112
    width: int = 112
    hidden: int = 4096
    dropout: float = 0.5


_CONVS: tuple[tuple[str, int, int], ...] = (
    ("conv1a", 3, 64),
    ("conv2a", 64, 128),
    ("conv3a", 128, 256),
    ("conv3b", 256, 256),
    ("conv4a", 256, 512),
    ("conv4b", 512, 512),
    ("conv5a", 512, 512),
    ("conv5b", 512, 512),
)
_POOLS: dict[str, tuple[Triple, Triple]] = {
    "conv1a": ((1, 2, 2), (0, 0, 0)),
    "conv2a": ((2, 2, 2), (0, 0, 0)),
    "conv3b": ((2, 2, 2), (0, 0, 0)),
    "conv4b": ((2, 2, 2), (0, 0, 0)),
    "conv5b": ((2, 2, 2), (0, 1, 1)),
}
"""Window (and stride) and padding of the max-pooling after a convolution; the last pads its 7 x 7 map to 4 x 4 places."""


class ConvReLU(nn.Conv3d):
    """A convolution with its ReLU, so that a tap sees what the next layer sees."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class C3D(VideoNetwork):
    """Input (N, 3, T, H, W), output logits (N, num_classes).

    The default heat map is ``conv5b``, (N, 512, T / 8, H / 16, W / 16); every layer includes its ReLU.
    """

    default_layers = ("conv5b",)
    memory_format = torch.channels_last_3d

    def __init__(self, config: C3DConfig) -> None:
        super().__init__()
        self.config = config
        for name, inputs, outputs in _CONVS:
            self.add_module(name, ConvReLU(inputs, outputs, 3, padding=1))
        size = [config.frames, config.height, config.width]
        for window, padding in _POOLS.values():
            size = [(length + 2 * pad) // step for length, step, pad in zip(size, window, padding, strict=True)]
        if min(size) < 1:
            raise OptionsError(f"nothing is left of {config.frames} frames of {config.height} x {config.width}", pointer="/frames")
        self.fc6 = nn.Linear(512 * size[0] * size[1] * size[2], config.hidden)
        self.fc7 = nn.Linear(config.hidden, config.hidden)
        self.fc8 = nn.Linear(config.hidden, config.num_classes)
        self.dropout = nn.Dropout(config.dropout)
        self.stages = {f"stage{number}": (name,) for number, name in enumerate(_POOLS, start=1)}

    def forward(self, x: Tensor) -> Tensor:
        for name, _, _ in _CONVS:
            x = self.get_submodule(name)(x)
            if name in _POOLS:
                window, padding = _POOLS[name]
                x = F.max_pool3d(x, window, window, padding)
        x = F.relu(self.fc6(x.flatten(1)))
        x = F.relu(self.fc7(self.dropout(x)))
        logits: Tensor = self.fc8(self.dropout(x))
        return logits

    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        walk = GridWalk((frames, height, width))
        for name, _, _ in _CONVS:
            walk.window((3, 3, 3), (1, 1, 1), (1, 1, 1))
            if name == layer:
                break
            if name in _POOLS:
                window, padding = _POOLS[name]
                walk.window(window, window, padding)
        return walk.grid()
