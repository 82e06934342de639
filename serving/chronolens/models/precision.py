"""A network in bfloat16: 1.7 to 6.5 times as fast as float32 where it is multiplied natively (docs/performance.md), 8 bits of mantissa.

Learning a mask asks the network many times which way is down; that bfloat16 can tell. It also decides which iterate or window is
kept and when to stop. The scores, objective, heat maps and ranks that are reported come from the float32 network.
"""

from __future__ import annotations

import copy
import logging
import os
from typing import Literal

import torch
from torch import Tensor, nn

from chronolens.errors import OptionsError
from chronolens.models.base import VideoNetwork

Precision = Literal["auto", "float32", "bfloat16"]
ROUNDING = 0.01
"""Relative error that eight bits of mantissa explain (about 0.003 is seen)."""
_log = logging.getLogger(__name__)
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16")


class InBfloat16(nn.Module):
    """A copy of a network with bfloat16 weights that takes and returns float32, as a :class:`chronolens.explain.protocol.VideoModel`.

    ``benchmarks/bench_masks.py`` measures how far its scores are from those in float32, and how much faster it is.
    """

    def __init__(self, network: VideoNetwork) -> None:
        super().__init__()
        self.default_layers = network.default_layers
        self.time_first_layers = network.time_first_layers
        self.memory_format = network.memory_format
        self.reads_in_order = network.reads_in_order
        self.network = copy.deepcopy(network).to(torch.bfloat16)
        for value in self.network.parameters():
            if value.ndim == 5:
                value.data = value.data.contiguous(memory_format=self.memory_format)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (N, K) float32 for clips (N, C, T, H, W)."""
        logits: Tensor = self.network(clip.to(torch.bfloat16, memory_format=self.memory_format))
        return logits.float()

    def logits_of_orders(self, clip: Tensor, orders: Tensor) -> Tensor:
        """As in :class:`chronolens.models.base.VideoNetwork`."""
        return self.network.logits_of_orders(clip.to(torch.bfloat16), orders).float()

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> None:
        """Return None: heat maps are made by the float32 network."""


def in_bfloat16(network: VideoNetwork, clip: tuple[int, int, int, int]) -> VideoNetwork | InBfloat16:
    """Return the form of an own network that masks are learned on: in bfloat16, or the network itself when it works in float32 only.

    Costs one pass forward and one backward over noise.

    Args:
        network: on its device.
        clip: (C, T, H, W) of a prepared clip.
    """
    device = next(network.parameters(), torch.zeros(())).device
    noise = torch.rand(1, *clip, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            rough = InBfloat16(network)
            (slope,) = torch.autograd.grad(rough(noise).sum(), noise)
        why = "" if bool(torch.isfinite(slope).all()) else "its gradient is not finite"
    except Exception as error:  # its forward may make float32 tensors, or it refuses to be copied
        why = f"{type(error).__name__}: {error}"
    if not why:
        return rough
    _log.warning("masks of an own network are learned in float32, because it does not work in bfloat16: %s", why)
    return network


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
    if not native_bfloat16(device):
        return "float32"
    if not convolves_rightly(device):
        _log.warning("bfloat16 convolutions on %s are wrong by more than their rounding; masks are learned in float32", device)
        return "float32"
    return "bfloat16"


def convolves_rightly(device: torch.device) -> bool:
    """Compare a small convolution and its input gradient in bfloat16 with float32, in three dimensions and in two.

    Asked once at start, because a processor that has the instructions may still have a broken kernel for them. True when all are right
    to within rounding.
    """
    return all(_within_rounding(device, *shape) for shape in (((4, 10, 10), torch.channels_last_3d), ((10, 10), torch.contiguous_format)))


def _within_rounding(device: torch.device, size: tuple[int, ...], memory_format: torch.memory_format) -> bool:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 16, *size), (32, 16, *[3] * len(size)), (1, 32, *size))
    pixels, weights, slope = (torch.randn(shape, generator=generator) for shape in shapes)
    convolve = torch.nn.functional.conv3d if len(size) == 3 else torch.nn.functional.conv2d
    found = []
    with torch.inference_mode(False), torch.enable_grad():
        for dtype in (torch.float32, torch.bfloat16):
            given = pixels.to(device, dtype, memory_format=memory_format).requires_grad_()
            answer = convolve(given, weights.to(device, dtype, memory_format=memory_format), padding=1)
            (back,) = torch.autograd.grad(answer, given, slope.to(device, dtype))
            found.append((answer.detach().float(), back.float()))
    return all(float((rough - exact).norm()) <= ROUNDING * float(exact.norm()) for exact, rough in zip(*found, strict=True))


def native_bfloat16(device: torch.device) -> bool:
    """Tell whether the processor multiplies bfloat16 itself; elsewhere PyTorch emulates it, many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # PyTorch has no public question for it; without these names it falls back to float32, which is always right
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(bool(ask()) for ask in asks if ask is not None)
