"""SlowFast: one pathway that sees few frames with many channels, one that sees all frames with few (Feichtenhofer et al. 2019).

Module names follow PySlowFast (``s2.pathway0_res1.branch2.b.weight``, ``s1_fuse.conv_f2s``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronolens.clips import CellGrid
from chronolens.errors import OptionsError
from chronolens.models.base import VideoNetwork
from chronolens.models.blocks import GridWalk, even_share, sliding_share
from chronolens.models.resnet import (
    DEPTHS,
    STAGES,
    ResBlock,
    Stem,
    blocks,
    check_numbers,
    conv,
    plans,
    stage_widths,
    walk_block,
    walk_stem,
    with_channels_last,
)

PATHWAYS = ("slow", "fast")
SLOW_KERNELS = (1, 1, 3, 3)
FAST_KERNELS = (3, 3, 3, 3)
FAST_STEM = 5
SlowFrames = Literal["linspace", "stride"]


@dataclass(frozen=True)
class SlowFastConfig:
    """Shape of a SlowFast network; the defaults are the published 8 x 8 network of 50 layers, as in PySlowFast.

    Args:
        num_classes: width of the classifier.
        alpha: frames of the clip for each frame that the slow pathway sees.
        beta: how many times as many channels the slow pathway has.
        depth: 50 as published, or 18.
        width: channels of the slow stem.
        fusion_kernel: temporal kernel of the lateral convolutions: 7 in the 8 x 8 network, 5 in 4 x 16.
        fusion_ratio: channels of a lateral connection for each channel of the fast pathway.
        fusion_norm: BatchNorm and ReLU after the lateral convolution; MMAction2 has neither.
        slow_first: the classifier reads slow channels, then fast ones (PySlowFast); MMAction2 the other way round.
        slow_frames: ``linspace`` spreads the slow frames from the first to the last (PySlowFast), ``stride`` takes every alpha-th
            (MMAction2).
        head: how positions are joined when the last map is larger than the pooling window of 7 x 7: ``mean_of_softmax`` (PySlowFast at
            evaluation), ``softmax_of_mean`` (PyTorchVideo), or ``global`` pooling over all places (MMAction2). Up to 7 x 7 all agree.
        last_stride: spatial stride of the last stage; 1 lets a 112-pixel clip keep the 7 x 7 map of a 224-pixel one.
        dropout: probability before the classifier, in training only.
    """

    num_classes: int = 174
    alpha: int = 4
    beta: int = 8
    depth: int = 50
    width: int = 64
    fusion_kernel: int = 7
    fusion_ratio: int = 2
    fusion_norm: bool = True
    slow_first: bool = True
    slow_frames: SlowFrames = "linspace"
    head: Literal["mean_of_softmax", "softmax_of_mean", "global"] = "mean_of_softmax"
    last_stride: int = 2
    dropout: float = 0.5

    def __post_init__(self) -> None:
        words: dict[str, tuple[object, ...]] = {
            "depth": tuple(DEPTHS),
            "last_stride": (1, 2),
            "fusion_norm": (False, True),
            "slow_first": (False, True),
            "slow_frames": get_args(SlowFrames),
            "head": ("mean_of_softmax", "softmax_of_mean", "global"),
        }
        check_numbers(self, {"num_classes": 1, "alpha": 1, "beta": 1, "width": 1, "fusion_kernel": 1, "fusion_ratio": 1}, words)
        if self.fusion_kernel % 2 == 0:
            raise OptionsError(f"fusion_kernel is odd, not {self.fusion_kernel}", pointer="/fusion_kernel")
        if self.width % self.beta:
            raise OptionsError(f"width {self.width} cannot be divided by beta {self.beta}", pointer="/beta")


POOL = 7
"""Side of the head's pooling window."""


def slow_frame_indices(frames: int, alpha: int, rule: SlowFrames) -> list[int]:
    """Return which of the clip's frames the slow pathway sees, ``frames // alpha`` of them.

    Raises:
        OptionsError: the clip is too short, or its length is no multiple of alpha.
    """
    if frames < alpha or frames % alpha:
        raise OptionsError(f"a clip of {frames} frames cannot be divided by alpha {alpha}", pointer="/frames")
    if rule == "stride":
        return list(range(0, frames, alpha))
    count = frames // alpha
    if count == 1:
        return [0]
    # torch.linspace in float32, truncated, as PySlowFast does; without tensors, because a tracer would take their values for unknown
    last = np.float32(frames - 1)
    step = last / np.float32(count - 1)
    return [int(step * np.float32(index) if index < count // 2 else last - step * np.float32(count - 1 - index)) for index in range(count)]


class PairedStem(nn.Module):
    """The stems of both pathways."""

    def __init__(self, slow: int, fast: int) -> None:
        super().__init__()
        self.pathway0_stem = Stem(slow, 1)
        self.pathway1_stem = Stem(fast, FAST_STEM)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        return self.pathway0_stem(slow), self.pathway1_stem(fast)


class PairedStage(nn.Module):
    """One residual stage of both pathways."""

    def __init__(self, pathways: list[list[ResBlock]]) -> None:
        super().__init__()
        for pathway, chain in enumerate(pathways):
            for position, block in enumerate(chain):
                self.add_module(f"pathway{pathway}_res{position}", block)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        for name, block in self.named_children():
            if name.startswith("pathway0"):
                slow = block(slow)
            else:
                fast = block(fast)
        return slow, fast


class Lateral(nn.Module):
    """Joins the fast pathway to the slow one: a (k, 1, 1) convolution of temporal stride alpha, concatenated."""

    def __init__(self, fast: int, config: SlowFastConfig) -> None:
        super().__init__()
        self.conv_f2s = conv(fast, fast * config.fusion_ratio, (config.fusion_kernel, 1, 1), (config.alpha, 1, 1))
        self.bn = nn.BatchNorm3d(fast * config.fusion_ratio) if config.fusion_norm else None

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        joined = self.conv_f2s(fast)
        if self.bn is not None:
            joined = F.relu(self.bn(joined))
        return torch.cat([slow, joined], dim=1)


class Head(nn.Module):
    """The classifier over both pathways' pooled channels, named as in PySlowFast."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.projection(x)
        return scores


class SlowFast(VideoNetwork):
    """Input (N, 3, T, H, W) with T a multiple of alpha, output logits (N, num_classes).

    One clip goes in; the network packs its pathways itself. There are two default heat maps, of the last block of each pathway:
    (N, C, T / alpha, H / 32, W / 32) and (N, C / beta, T, H / 32, W / 32).
    """

    memory_format = torch.channels_last_3d
    pathways = PATHWAYS

    def __init__(self, config: SlowFastConfig) -> None:
        super().__init__()
        self.config = config
        wide, thin = config.width, config.width // config.beta
        slow, fast = stage_widths(config.depth, wide), stage_widths(config.depth, thin)
        joined = [channels * config.fusion_ratio for channels in (thin, *fast[:3])]
        inputs = (wide + joined[0], slow[0] + joined[1], slow[1] + joined[2], slow[2] + joined[3])
        slow_plans = plans(config.depth, wide, inputs, SLOW_KERNELS, config.last_stride)
        fast_plans = plans(config.depth, thin, (thin, *fast[:3]), FAST_KERNELS, config.last_stride)
        self.s1 = PairedStem(wide, thin)
        self.s1_fuse = Lateral(thin, config)
        for level in range(4):
            self.add_module(f"s{level + 2}", PairedStage([blocks(slow_plans[level]), blocks(fast_plans[level])]))
            if level < 3:
                self.add_module(f"s{level + 2}_fuse", Lateral(fast[level], config))
        self.dropout = nn.Dropout(config.dropout)
        self.head = Head(slow[3] + fast[3], config.num_classes)
        self._channels = slow[3], fast[3]
        self.stages = {"stage1": ("s1.pathway0_stem", "s1.pathway1_stem")}
        for name, plan in zip(STAGES, slow_plans, strict=True):
            last = plan.blocks - 1
            self.stages[name] = (f"s{name[-1]}.pathway0_res{last}", f"s{name[-1]}.pathway1_res{last}")
        self.default_layers = self.stages["stage5"]
        with_channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        chosen = slow_frame_indices(x.shape[2], self.config.alpha, self.config.slow_frames)
        slow, fast = self.s1(torch.stack([x[:, :, index] for index in chosen], dim=2), x)
        for number in range(2, 6):
            slow, fast = getattr(self, f"s{number}")(getattr(self, f"s{number - 1}_fuse")(slow, fast), fast)
        return self.classify(slow, fast)

    def classify(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Return logits (N, num_classes) from the last activations of both pathways.

        Where softmax is averaged over places, the logits are the logarithm of that average, so that their softmax is the average.
        """
        pooled = [self._pooled(maps) for maps in ((slow, fast) if self.config.slow_first else (fast, slow))]
        joined = self.dropout(torch.cat(pooled, dim=1))
        if joined.shape[2:] == (1, 1):
            return self.head(joined.flatten(1))  # type: ignore[no-any-return]
        places = self.head(joined.flatten(2).transpose(1, 2))  # (N, places, classes)
        logits: Tensor
        if self.config.head == "mean_of_softmax":
            logits = places.log_softmax(dim=2).logsumexp(dim=1) - torch.log(torch.tensor(float(places.shape[1])))
        else:
            logits = places.mean(dim=1)
        return logits

    def _pooled(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[3:]
        frames = maps.mean(dim=2)
        if self.config.head == "global" or (height <= POOL and width <= POOL):
            return frames.mean(dim=(2, 3), keepdim=True)
        return F.avg_pool2d(frames, (min(POOL, height), min(POOL, width)), stride=1)

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        if layer not in self.default_layers:
            return None
        slow, fast = self._channels
        parts = torch.split(self.head.projection.weight, [slow, fast] if self.config.slow_first else [fast, slow], dim=1)
        weights = parts[0] if (layer == self.default_layers[0]) == self.config.slow_first else parts[1]
        if self.config.head == "global" or (height <= POOL and width <= POOL):
            return weights, even_share(weights, (steps, height, width))
        if self.config.head == "mean_of_softmax":
            return None
        return weights, sliding_share(weights, (steps, height, width), (steps, POOL, POOL))

    def pathway_of(self, layer: str) -> str | None:
        """Return whose frames a layer's steps are; lateral connections end in the slow pathway."""
        if "pathway1" in layer:
            return PATHWAYS[1]
        return PATHWAYS[0] if "pathway0" in layer or "_fuse" in layer else None

    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        walk = GridWalk((frames, height, width))
        stage, _, within = layer.partition(".")
        walk_stem(walk, pooled=stage != "s1" or within in ("pathway0_stem", "pathway1_stem"))
        reached = int(stage[1])
        wanted, _, inside = within.partition(".")
        pathway = wanted.split("_")[0] if wanted.startswith("pathway") else "pathway0"
        for number in range(2, reached + 1):
            for name, block in self.get_submodule(f"s{number}").named_children():
                if not name.startswith(pathway):
                    continue
                assert isinstance(block, ResBlock)
                here = stage == f"s{number}" and name == wanted
                walk_block(walk, block, inside if here else "")
                if here:
                    break
        grid = walk.grid()
        if self.pathway_of(layer) != PATHWAYS[0]:
            return grid
        alpha = self.config.alpha
        seen = slow_frame_indices(frames, alpha, self.config.slow_frames)
        return CellGrid((alpha, *grid.stride[1:]), grid.first, frames=tuple(seen))
