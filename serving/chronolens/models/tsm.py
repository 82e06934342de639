"""TSM: a residual network that sees each frame alone but for channels shifted between neighbouring frames (Lin, Gan & Han 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chronolens.clips import CellGrid
from chronolens.models.base import VideoNetwork
from chronolens.models.blocks import GridWalk, even_share
from chronolens.models.resnet import (
    DEPTHS,
    STAGES,
    ResBlock,
    Stem,
    blocks,
    check_numbers,
    plans,
    stage_widths,
    walk_block,
    walk_stem,
    with_channels_last,
)


@dataclass(frozen=True)
class TSMConfig:
    """Shape of a TSM network; the number of frames ("segments") is that of the clip, the weights do not depend on it.

    Args:
        num_classes: width of the classifier.
        depth: 50 as published, or 18.
        width: channels of the stem.
        shift: the share ``1 / shift`` of the channels moves by one frame each way before each block.
        last_stride: spatial stride of the last stage; 1 lets a 112-pixel clip keep the 7 x 7 map of a 224-pixel one.
        dropout: probability before the classifier, in training only.
    """

    num_classes: int = 174
    depth: int = 50
    width: int = 64
    shift: int = 8
    last_stride: int = 2
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, {"num_classes": 1, "width": 1, "shift": 2}, {"depth": tuple(DEPTHS), "last_stride": (1, 2)})


class TSM(VideoNetwork):
    """Input (N, 3, T, H, W), output logits (N, num_classes): the mean of the logits of all frames.

    The default heat map is the last stage: (N, 32 * width, T, H / 32, W / 32) for 50 layers.
    """

    memory_format = torch.channels_last_3d

    def __init__(self, config: TSMConfig) -> None:
        super().__init__()
        self.config = config
        widths = stage_widths(config.depth, config.width)
        self.s1 = Stem(config.width, 1)
        shapes = plans(config.depth, config.width, (config.width, *widths[:3]), (1, 1, 1, 1), config.last_stride, config.shift)
        for number, plan in enumerate(shapes, start=2):
            named = {f"res{position}": block for position, block in enumerate(blocks(plan))}
            stage = nn.Sequential()
            for name, block in named.items():
                stage.add_module(name, block)
            self.add_module(f"s{number}", stage)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(widths[3], config.num_classes)
        self.default_layers = ("s5",)
        self.stages = {"stage1": ("s1",), **{name: (f"s{name[-1]}",) for name in STAGES}}
        with_channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s1(x)
        for number in range(2, 6):
            x = getattr(self, f"s{number}")(x)
        # the mean of all frames' logits is the logits of the mean, for the price of one
        logits: Tensor = self.head(self.dropout(x.mean(dim=(3, 4))).mean(dim=2))
        return logits

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        if layer not in self.default_layers:
            return None
        return self.head.weight, even_share(self.head.weight, (steps, height, width))

    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        walk = GridWalk((frames, height, width))
        walk_stem(walk, pooled=layer == "s1" or not layer.startswith("s1."))
        stage, _, within = layer.partition(".")
        for number in range(2, int(stage[1:]) + 1):
            for name, block in self.get_submodule(f"s{number}").named_children():
                assert isinstance(block, ResBlock)
                here, _, inside = within.partition(".")
                reached = stage == f"s{number}" and here == name
                walk_block(walk, block, inside if reached else "")
                if reached:
                    return walk.grid()
        return walk.grid()
