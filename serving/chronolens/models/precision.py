"""A network in bfloat16: about twice to three times the speed of float32 on processors that multiply it natively, at 8 bits of mantissa.

Learning a mask asks the network some hundred times which way is down; that bfloat16 can tell. It also decides which iterate or window is
kept and when to stop. The scores, objective, heat maps and ranks that are reported come from the float32 network.
"""

from __future__ import annotations

import copy
import os
from typing import Literal

import torch
from torch import Tensor, nn

from chronolens.errors import OptionsError
from chronolens.models.base import VideoNetwork

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16")


class InBfloat16(nn.Module):
    """A copy of a network with bfloat16 weights that takes and returns float32, as a :class:`chronolens.explain.protocol.VideoModel`.

    ``benchmarks/precision.py`` measures how far its scores are from those in float32, and how much faster it is.
    """

    def __init__(self, network: VideoNetwork) -> None:
        super().__init__()
        self.default_layer = network.default_layer
        self.time_first_layers = network.time_first_layers
        self.memory_format = network.memory_format
        self.network = copy.deepcopy(network).to(torch.bfloat16)
        for value in self.network.parameters():
            if value.ndim == 5:
                value.data = value.data.contiguous(memory_format=self.memory_format)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (N, K) float32 for clips (N, C, T, H, W)."""
        logits: Tensor = self.network(clip.to(torch.bfloat16, memory_format=self.memory_format))
        return logits.float()

    def linear_head(self, steps: int, height: int, width: int) -> None:
        """Return None: heat maps are made by the float32 network."""


def chosen_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision in which masks are learned: the environment's ``CHRONOLENS_PRECISION``, by itself what the device is good at.

    Raises:
        OptionsError: the variable is not one of ``PRECISIONS``.
    """
    wanted = os.environ.get("CHRONOLENS_PRECISION") or "auto"
    if wanted in ("float32", "bfloat16"):
        return "float32" if wanted == "float32" else "bfloat16"
    if wanted != "auto":
        raise OptionsError(f"CHRONOLENS_PRECISION cannot be {wanted[:40]!r}.", allowed=PRECISIONS)
    return "bfloat16" if native_bfloat16(device) else "float32"


def native_bfloat16(device: torch.device) -> bool:
    """Tell whether the processor multiplies bfloat16 itself; elsewhere PyTorch emulates it, many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # PyTorch has no public question for it; without these names it falls back to float32, which is always right
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(bool(ask()) for ask in asks if ask is not None)
