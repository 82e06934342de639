"""Networks as they are trained here: shapes that keep a map of 7 x 7 or more on small clips, and moving a network to another frame size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from chronolens.errors import UnknownModelError
from chronolens.models.base import VideoNetwork
from chronolens.models.clstm import CLSTM, CLSTMConfig
from chronolens.models.i3d import I3D, I3DConfig
from chronolens.models.slowfast import SlowFast, SlowFastConfig
from chronolens.models.tsm import TSM, TSMConfig
from chronolens.training.motion_start import start_with_motion

MEMORY_FORMATS = {
    "i3d": I3D.memory_format,
    "clstm": CLSTM.memory_format,
    "tsm": TSM.memory_format,
    "slowfast": SlowFast.memory_format,
}
"""The architectures that can be trained, and in which order of axes in memory that is fastest."""
CLASSIFIERS = ("logits.", "endFC.", "head.")


def build(architecture: str, classes: int, *, frames: int, size: int, dropout: float) -> VideoNetwork:
    """Return a fresh network for clips of ``frames`` x ``size`` x ``size``.

    Raises:
        UnknownModelError: the architecture is not one of ``MEMORY_FORMATS``.
    """
    if architecture == "i3d":
        return I3D(I3DConfig(classes, temporal_strides=(2, 1, 1), last_stride=1, head="global", dropout=dropout))
    if architecture == "clstm":
        model = CLSTM(CLSTMConfig(classes, frames, size, size, strides=(2, 1, 1), dropout=dropout))
        start_with_motion(model)
        return model
    if architecture == "tsm":
        return TSM(TSMConfig(classes, depth=18, width=32, last_stride=1, dropout=dropout))
    if architecture == "slowfast":
        return SlowFast(SlowFastConfig(classes, depth=18, width=24, beta=3, last_stride=1, dropout=dropout))
    raise UnknownModelError(f"no architecture {architecture!r} to train", allowed=list(MEMORY_FORMATS))


def transplant(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights into a network of the same architecture for another frame size.

    Only the C-LSTM's classifier depends on the size: its weights are maps over rows and columns, stretched here so that each map
    keeps its sum and an even picture its logits.
    """
    state = source.state_dict()
    if isinstance(source, CLSTM) and isinstance(target, CLSTM):
        state["endFC.weight"] = _stretch(state["endFC.weight"], source, target)
    target.load_state_dict(state)


def adopt(source: nn.Module, target: nn.Module, *, same_classes: bool) -> None:
    """Copy all weights and BatchNorm statistics; those of the classifier only for the same classes (and the same frame size)."""
    own, given = target.state_dict(), source.state_dict()
    fits = same_classes and all(given[name].shape == own[name].shape for name in own)
    target.load_state_dict(own | {name: value for name, value in given.items() if fits or not name.startswith(CLASSIFIERS)})


def _stretch(weight: torch.Tensor, source: CLSTM, target: CLSTM) -> torch.Tensor:
    old, new = (_map_size(model) for model in (source, target))
    if old == new:
        return weight
    maps = weight.reshape(len(weight), source.config.frames * source.config.hidden, *old)
    stretched = F.interpolate(maps, new, mode="bilinear", align_corners=False) * (old[0] * old[1] / (new[0] * new[1]))
    lost = maps.sum((2, 3), keepdim=True) - stretched.sum((2, 3), keepdim=True)
    return (stretched + lost / (new[0] * new[1])).flatten(1)


def _map_size(model: CLSTM) -> tuple[int, int]:
    height, width = model.config.height, model.config.width
    for stride in model.config.strides:
        height, width = ((size + stride - 1) // stride // 2 for size in (height, width))
    return height, width
