"""SlowFast with ResNet-50 a second time, under the names of PySlowFast, of its Caffe2 files, of PyTorchVideo and of MMAction2.

Facts: Feichtenhofer et al. 2019, table 1 and section 3; github.com/facebookresearch/SlowFast, ``slowfast/models`` and
``slowfast/utils/c2_model_loading.py``; github.com/facebookresearch/pytorchvideo, ``models/slowfast.py`` and ``models/head.py``;
github.com/open-mmlab/mmaction2, backbone ``ResNet3dSlowFast`` and head ``SlowFastHead``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tests.importing.parity_draws import CAFFE2, TORCH, Draws, State, Words, batch_norm
from torch import Tensor

BLOCKS = (3, 4, 6, 3)
SLOW, FAST = 0, 1
_WIDTHS = (64, 8)
_STEM_KERNELS = (1, 5)
_FIRST_KERNELS = ((1, 1, 3, 3), (3, 3, 3, 3))

Pair = tuple[str, str]
"""Names of a convolution and of its normalisation."""


@dataclass(frozen=True)
class Names:
    """How a dialect names its layers.

    Attributes:
        stem: of a pathway.
        lateral: after the stem (0) or a stage (1 to 3).
        block: stage 1 to 4, pathway, block, and ``a``, ``b``, ``c`` or ``shortcut``.
        classifier: the linear layer.
        words: how names end.
        lateral_norm: whether a lateral convolution has a normalisation and a ReLU.
    """

    stem: Callable[[int], Pair]
    lateral: Callable[[int], Pair]
    block: Callable[[int, int, int, str], Pair]
    classifier: str
    words: Words = TORCH
    lateral_norm: bool = True


def _pyslowfast(stage: int, pathway: int, block: int, part: str) -> Pair:
    start = f"s{stage + 1}.pathway{pathway}_res{block}."
    conv = "branch1" if part == "shortcut" else f"branch2.{part}"
    return start + conv, f"{start}{conv}_bn"


def _caffe2(stage: int, pathway: int, block: int, part: str) -> Pair:
    conv = f"{'t_' * pathway}res{stage + 1}_{block}_branch" + ("1" if part == "shortcut" else f"2{part}")
    return conv, f"{conv}_bn"


def _caffe2_lateral(place: int) -> Pair:
    conv = f"t_res{place + 1}_{BLOCKS[place - 1] - 1}_branch2c_bn_subsample" if place else "t_pool1_subsample"
    return conv, f"{conv}_bn"


def _pytorchvideo(stage: int, pathway: int, block: int, part: str) -> Pair:
    start = f"blocks.{stage}.multipathway_blocks.{pathway}.res_blocks.{block}."
    if part == "shortcut":
        return f"{start}branch1_conv", f"{start}branch1_norm"
    return f"{start}branch2.conv_{part}", f"{start}branch2.norm_{part}"


def _mmaction(stage: int, pathway: int, block: int, part: str) -> Pair:
    layer = "downsample" if part == "shortcut" else f"conv{'abc'.index(part) + 1}"
    start = f"backbone.{('slow', 'fast')[pathway]}_path.layer{stage}.{block}.{layer}"
    return f"{start}.conv", f"{start}.bn"


DIALECTS: Mapping[str, Names] = {
    "pyslowfast": Names(
        lambda pathway: (f"s1.pathway{pathway}_stem.conv", f"s1.pathway{pathway}_stem.bn"),
        lambda place: (f"s{place + 1}_fuse.conv_f2s", f"s{place + 1}_fuse.bn"),
        _pyslowfast,
        "head.projection",
    ),
    "pyslowfast-caffe2": Names(
        lambda pathway: ("t_" * pathway + "conv1", "t_" * pathway + "res_conv1_bn"), _caffe2_lateral, _caffe2, "pred", CAFFE2
    ),
    "pytorchvideo": Names(
        lambda pathway: (f"blocks.0.multipathway_blocks.{pathway}.conv", f"blocks.0.multipathway_blocks.{pathway}.norm"),
        lambda place: (f"blocks.{place}.multipathway_fusion.conv_fast_to_slow", f"blocks.{place}.multipathway_fusion.norm"),
        _pytorchvideo,
        "blocks.6.proj",
    ),
    "mmaction2-slowfast": Names(
        lambda pathway: (f"backbone.{('slow', 'fast')[pathway]}_path.conv1.conv", f"backbone.{('slow', 'fast')[pathway]}_path.conv1.bn"),
        lambda place: (f"backbone.slow_path.{f'layer{place}' if place else 'conv1'}_lateral.conv", ""),
        _mmaction,
        "cls_head.fc_cls",
        lateral_norm=False,
    ),
}


def checkpoint(seed: int, classes: int, names: Names, lateral_kernel: int) -> State:
    """Return every tensor of a checkpoint; the kernel of the laterals is 7 in the 8x8 network and 5 in 4x16."""
    draws = Draws(seed, names.words)

    def layer(pair: Pair, channels: int, inputs: int, *kernel: int, scale: float = 1.0) -> None:
        draws.conv(pair[0], channels, inputs, *kernel)
        draws.norm(pair[1], channels, scale)

    def lateral(place: int, channels: int) -> None:
        draws.conv(names.lateral(place)[0], 2 * channels, channels, lateral_kernel, 1, 1)
        if names.lateral_norm:
            draws.norm(names.lateral(place)[1], 2 * channels)

    for pathway, width in enumerate(_WIDTHS):
        layer(names.stem(pathway), width, 3, _STEM_KERNELS[pathway], 7, 7)
    lateral(0, _WIDTHS[FAST])
    inputs = list(_WIDTHS)
    for stage, blocks in enumerate(BLOCKS, 1):
        inputs[SLOW] += 2 * inputs[FAST]
        for pathway, width in enumerate(_WIDTHS):
            inner = width * 2 ** (stage - 1)
            for block in range(blocks):
                layer(names.block(stage, pathway, block, "a"), inner, inputs[pathway], _FIRST_KERNELS[pathway][stage - 1], 1, 1)
                layer(names.block(stage, pathway, block, "b"), inner, inner, 1, 3, 3)
                layer(names.block(stage, pathway, block, "c"), 4 * inner, inner, 1, 1, 1, scale=0.3)
                if block == 0:
                    layer(names.block(stage, pathway, block, "shortcut"), 4 * inner, inputs[pathway], 1, 1, 1, scale=0.7)
                inputs[pathway] = 4 * inner
        if stage < len(BLOCKS):
            lateral(stage, inputs[FAST])
    draws.linear(names.classifier, classes, sum(inputs), gain=3.0)
    if names.words is CAFFE2:  # what the solver left behind
        draws.state |= {"conv1_w_momentum": torch.zeros(64, 3, 1, 7, 7), "lr": torch.zeros(1), "model_iter": torch.tensor([9])}
    return draws.state


def spread(frames: int, alpha: int) -> list[int]:
    """Return the slow frames of PySlowFast and PyTorchVideo: evenly from first to last in float32, fractions cut off."""
    return [int(place) for place in torch.linspace(0, frames - 1, frames // alpha, dtype=torch.float32)]


def every(frames: int, alpha: int) -> list[int]:
    """Return the slow frames of MMAction2: the nearest-neighbour rule of a scale ``1 / alpha``."""
    return [place * alpha for place in range(frames // alpha)]


@dataclass(frozen=True)
class Trunk:
    """What a dialect's two pathways do before the head; all but the first three fields are mutations when changed.

    Attributes:
        names: of the dialect.
        alpha: frames for each slow frame.
        slow: indices of the slow frames.
        eps: of every normalisation.
        lateral_norm: BatchNorm and ReLU after a lateral convolution.
        lateral_relu: the ReLU alone.
        fused_first: channels of a lateral come before the slow ones.
        stride_in_a: the first convolution of a block halves the map, not the second.
    """

    names: Names
    alpha: int
    slow: list[int]
    eps: float = 1e-5
    lateral_norm: bool = True
    lateral_relu: bool = True
    fused_first: bool = False
    stride_in_a: bool = False

    def maps(self, state: State, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last maps of the slow and of the fast pathway, (N, C, T', H', W')."""
        paths = [self._stem(state, clip[:, :, self.slow], SLOW), self._stem(state, clip, FAST)]
        for stage in range(1, len(BLOCKS) + 1):
            paths[SLOW] = self._fused(state, paths, stage - 1)
            paths = [self._stage(state, x, stage, pathway) for pathway, x in enumerate(paths)]
        return paths[SLOW], paths[FAST]

    def _layer(self, state: State, x: Tensor, pair: Pair, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        kernel = state[pair[0] + self.names.words.weight]
        x = F.conv3d(x, kernel, stride=stride, padding=[size // 2 for size in kernel.shape[2:]])
        return batch_norm(x, state, pair[1], self.eps, self.names.words)

    def _stem(self, state: State, x: Tensor, pathway: int) -> Tensor:
        x = self._layer(state, x, self.names.stem(pathway), (1, 2, 2)).relu()
        return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def _fused(self, state: State, paths: list[Tensor], place: int) -> Tensor:
        conv, norm = self.names.lateral(place)
        kernel = state[conv + self.names.words.weight]
        x = F.conv3d(paths[FAST], kernel, stride=(self.alpha, 1, 1), padding=(kernel.shape[2] // 2, 0, 0))
        if self.names.lateral_norm and self.lateral_norm:
            x = batch_norm(x, state, norm, self.eps, self.names.words)
            x = x.relu() if self.lateral_relu else x
        return torch.cat([x, paths[SLOW]] if self.fused_first else [paths[SLOW], x], 1)

    def _stage(self, state: State, x: Tensor, stage: int, pathway: int) -> Tensor:
        for block in range(BLOCKS[stage - 1]):
            step = 2 if stage > 1 and not block else 1
            in_a, in_b = (step, 1) if self.stride_in_a else (1, step)
            a, b, c, shortcut = (self.names.block(stage, pathway, block, part) for part in ("a", "b", "c", "shortcut"))
            inner = self._layer(state, x, a, (1, in_a, in_a)).relu()
            inner = self._layer(state, inner, b, (1, in_b, in_b)).relu()
            beside = x if block else self._layer(state, x, shortcut, (1, step, step))
            x = (self._layer(state, inner, c) + beside).relu()
        return x


def position_logits(state: State, names: Names, first: Tensor, second: Tensor, window: int | None) -> Tensor:
    """Return logits of every place of the pooling window, (N, places, num_classes); one place where ``window`` is None.

    Args:
        state: the checkpoint.
        names: of the dialect.
        first: the map that the classifier reads first, (N, C, T', H', W').
        second: the other.
        window: side of the pooling window, all steps deep; a smaller map is pooled whole.
    """
    pooled = []
    for x in (first, second):
        steps, height, width = x.shape[2:]
        side = (height, width) if window is None else (min(window, height), min(window, width))
        pooled.append(F.avg_pool3d(x, (steps, *side), stride=1))
    read = torch.cat(pooled, 1).flatten(2).transpose(1, 2)
    return read @ state[names.classifier + names.words.weight].T + state[names.classifier + names.words.bias]
