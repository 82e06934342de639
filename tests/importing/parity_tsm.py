"""TSM a second time: frames in the batch of a two-dimensional ResNet, under the names of the authors and of MMAction2.

Facts: Lin et al. 2019, sections 3 and 4; github.com/mit-han-lab/temporal-shift-module, ``ops``; github.com/open-mmlab/mmaction2, backbone
``ResNetTSM`` and head ``TSMHead``; He et al. 2016 with the stride in the 3x3 convolution (torchvision).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from tests.importing.parity_draws import Draws, State, batch_norm
from torch import Tensor

BLOCKS = (3, 4, 6, 3)


@dataclass(frozen=True)
class Names:
    """How a dialect names the convolution and the normalisation of a layer; layers are named as in torchvision's ResNet."""

    mmaction: bool
    prefix: str

    def layer(self, path: str, number: int) -> tuple[str, str]:
        """Return convolution and normalisation ``number`` of the stem (empty path) or of a block."""
        start = self.prefix + path + ("." if path else "")
        shifted = ".net" if path and number == 1 else ""
        if self.mmaction:
            return f"{start}conv{number}.conv{shifted}", f"{start}conv{number}.bn"
        return f"{start}conv{number}{shifted}", f"{start}bn{number}"

    def shortcut(self, path: str) -> tuple[str, str]:
        """Return convolution and normalisation beside the first block of a stage."""
        conv, norm = ("conv", "bn") if self.mmaction else ("0", "1")
        return f"{self.prefix}{path}.downsample.{conv}", f"{self.prefix}{path}.downsample.{norm}"

    @property
    def classifier(self) -> str:
        """The linear layer."""
        return "cls_head.fc_cls" if self.mmaction else self.prefix.removesuffix("base_model.") + "new_fc"


AUTHORS = Names(mmaction=False, prefix="module.base_model.")
MMACTION = Names(mmaction=True, prefix="backbone.")


def checkpoint(seed: int, classes: int, names: Names) -> State:
    """Return every tensor of a checkpoint of TSM with ResNet-50."""
    draws = Draws(seed)

    def layer(conv_and_norm: tuple[str, str], channels: int, inputs: int, kernel: int, scale: float = 1.0) -> None:
        draws.conv(conv_and_norm[0], channels, inputs, kernel, kernel)
        draws.norm(conv_and_norm[1], channels, scale)

    layer(names.layer("", 1), 64, 3, 7)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS):
        inner = 64 * 2**stage
        for block in range(blocks):
            path = f"layer{stage + 1}.{block}"
            layer(names.layer(path, 1), inner, inputs, 1)
            layer(names.layer(path, 2), inner, inner, 3)
            layer(names.layer(path, 3), 4 * inner, inner, 1, 0.3)
            if block == 0:
                layer(names.shortcut(path), 4 * inner, inputs, 1, 0.7)
            inputs = 4 * inner
    draws.linear(names.classifier, classes, inputs, gain=3.0)
    return draws.state


def shifted(x: Tensor, share: int, *, backwards: bool = False, wrapped: bool = False) -> Tensor:
    """Return (N, T, C, H, W) with channel c of frame t taken from frame t+1 (first C // share), t-1 (next as many) or t.

    Args:
        x: features.
        share: which part of the channels moves each way.
        backwards: a mutation: the two directions exchanged.
        wrapped: a mutation: the frame beyond the end is the one at the other end, not zeros.
    """
    frames, fold = x.shape[1], x.shape[2] // share
    moved = x.clone()
    for channels, step in [(slice(0, fold), 1), (slice(fold, 2 * fold), -1)]:
        for t in range(frames):
            source = t + (-step if backwards else step)
            inside = 0 <= source < frames or wrapped
            moved[:, t, channels] = x[:, source % frames, channels] if inside else 0.0
    return moved


def frame_logits(
    state: State,
    clip: Tensor,
    names: Names,
    *,
    share: int = 8,
    eps: float = 1e-5,
    backwards: bool = False,
    wrapped: bool = False,
    whole_block: bool = False,
) -> Tensor:
    """Return logits of each frame, (N, T, num_classes); the network's answer is their mean.

    Args:
        state: the checkpoint.
        clip: (N, 3, T, H, W).
        names: of the dialect.
        share: which part of the channels moves each way.
        eps: of every normalisation.
        backwards: a mutation, see :func:`shifted`.
        wrapped: a mutation, see :func:`shifted`.
        whole_block: a mutation: the shortcut sees shifted features too, not only the residual.
    """
    n, _, frames, _, _ = clip.shape

    def layer(x: Tensor, conv_and_norm: tuple[str, str], stride: int = 1) -> Tensor:
        kernel = state[f"{conv_and_norm[0]}.weight"]
        return batch_norm(F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2), state, conv_and_norm[1], eps)

    x = clip.transpose(1, 2).flatten(0, 1)
    x = F.max_pool2d(layer(x, names.layer("", 1), 2).relu(), 3, 2, 1)
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            path = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            moved = shifted(x.view(n, frames, *x.shape[1:]), share, backwards=backwards, wrapped=wrapped).flatten(0, 1)
            beside = moved if whole_block else x
            inner = layer(moved, names.layer(path, 1)).relu()
            inner = layer(inner, names.layer(path, 2), stride).relu()
            beside = layer(beside, names.shortcut(path), stride) if block == 0 else beside
            x = (layer(inner, names.layer(path, 3)) + beside).relu()
    pooled = x.mean((2, 3))
    scores = pooled @ state[f"{names.classifier}.weight"].T + state[f"{names.classifier}.bias"]
    return scores.view(n, frames, -1)
