"""Start weights of the C-LSTM: a first cell that already sees motion, later cells that pass it on.

From random weights the network needs thousands of steps before any channel tells left from right. The gates can do it at once: a
*delay line* (input gate open, forget gate shut) holds the smoothed previous frame, a *detector* takes the difference of two frames as its
candidate and a spatial derivative as its input gate. The product of temporal and spatial gradient has the sign of the motion along the
derivative (the gradient scheme of motion detection; Adelson & Bergen 1985), and the forget gate lets it add up over time. Training starts
from there and changes every weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from chronolens.models.clstm import CLSTM, ConvLSTMCell

COLOURS = ((1 / 3, 1 / 3, 1 / 3), (1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (-0.25, -0.25, 0.5))
"""Weights of red, green and blue: brightness twice, red against green, blue against yellow."""
WIDTHS = (0.7, 1.3, 1.0, 1.0)
"""Standard deviation of the smoothing of each, in pixels."""
DIRECTIONS = 7
OPEN, SHUT = 3.0, -4.0
"""Biases that hold a gate open or shut."""
DELAY_GAIN, DIFFERENCE_GAIN, DERIVATIVE_GAIN = 0.5, 4.0, 24.0
NOISE = 0.02
"""Share of the random start weights that stays, so that no two channels are alike."""
PASSED_NOISE = 0.3


def start_with_motion(model: CLSTM) -> None:
    """Set the start weights of a fresh network in place.

    Raises:
        ValueError: the cells have fewer than 32 channels.
    """
    cells = [module for module in model.clstm.children() if isinstance(module, ConvLSTMCell)]
    if model.config.hidden < len(COLOURS) * (1 + DIRECTIONS):
        raise ValueError(f"motion detectors need {len(COLOURS) * (1 + DIRECTIONS)} channels, not {model.config.hidden}")
    with torch.no_grad():
        _detectors(cells[0])
        for cell in cells[1:]:
            _relay(cell)
        model.endFC.weight.mul_(NOISE)
        model.endFC.bias.zero_()


def _quieten(cell: ConvLSTMCell, share: float) -> dict[str, Tensor]:
    """Keep a share of the random weights and no biases; return all parameters by name."""
    weights: dict[str, Tensor] = dict(cell.named_parameters())
    for name, value in weights.items():
        value.mul_(0.0 if name.endswith("bias") else share)
    return weights


def _detectors(cell: ConvLSTMCell) -> None:
    weights = _quieten(cell, NOISE)
    middle = weights["Whc.weight"].shape[-1] // 2
    passed = torch.sigmoid(torch.tensor(OPEN)).item() ** 2  # what two open gates leave of a small signal
    detector = len(COLOURS)
    for line, (colour, width) in enumerate(zip(COLOURS, WIDTHS, strict=True)):
        seen = DELAY_GAIN * _coloured(colour, _smoothing(width))
        weights["Wxc.weight"][line] = seen
        for gate, bias in (("i", OPEN), ("f", SHUT), ("o", OPEN)):
            weights[f"Wx{gate}.bias"][line] = bias
        for number in range(DIRECTIONS):
            angle = 2 * math.pi * (number + 0.5 * (line % 2)) / DIRECTIONS
            weights["Wxc.weight"][detector] = DIFFERENCE_GAIN * seen
            weights["Whc.weight"][detector, line, middle, middle] = -DIFFERENCE_GAIN / passed
            weights["Wxi.weight"][detector] = DERIVATIVE_GAIN * _coloured(colour, _derivative(angle))
            weights["Wxf.bias"][detector] = 0.5
            weights["Wxo.bias"][detector] = 2.0
            detector += 1


def _relay(cell: ConvLSTMCell) -> None:
    """Each channel shows a smoothed, slowly forgotten copy of the channel below."""
    weights = _quieten(cell, PASSED_NOISE)
    channels = torch.arange(cell.hidden)
    weights["Wxc.weight"][channels, channels] += _smoothing(1.0)
    for gate, bias in (("i", 1.0), ("f", 0.5), ("o", 2.0)):
        weights[f"Wx{gate}.bias"].fill_(bias)


def _coloured(colour: tuple[float, float, float], kernel: Tensor) -> Tensor:
    return torch.tensor(colour)[:, None, None] * kernel


def _grid() -> tuple[Tensor, Tensor]:
    offsets = torch.arange(5) - 2.0
    rows, columns = torch.meshgrid(offsets, offsets, indexing="ij")
    return rows, columns


def _smoothing(width: float) -> Tensor:
    rows, columns = _grid()
    kernel = torch.exp(-(rows**2 + columns**2) / (2 * width**2))
    return kernel / kernel.sum()


def _derivative(angle: float) -> Tensor:
    """Return the derivative along a direction (0 is to the right, a quarter turn is down), absolute values summing to 1."""
    rows, columns = _grid()
    kernel = -(columns * math.cos(angle) + rows * math.sin(angle)) * torch.exp(-(rows**2 + columns**2) / (2 * 1.2**2))
    return kernel / kernel.abs().sum()
