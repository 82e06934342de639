"""The C-LSTM's start weights tell directions apart before any training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from chronolens.models.clstm import CLSTM, CLSTMConfig
from chronolens.training.motion_start import COLOURS, DIRECTIONS, start_with_motion


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def drifting(step: tuple[int, int]) -> Tensor:
    """A smooth grey pattern (1, 8, 3, 48, 48) in [-1, 1] that moves by ``step`` = (right, down) pixels a frame."""
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    pattern = nn.functional.avg_pool2d(noise, 5, 1) * 3
    frames = [torch.roll(pattern, (step[1] * t, step[0] * t), (2, 3))[..., 6:54, 6:54] for t in range(8)]
    return torch.stack(frames, dim=1).expand(-1, -1, 3, -1, -1)


def started() -> CLSTM:
    torch.manual_seed(0)
    model = CLSTM(CLSTMConfig(4, frames=8, height=48, width=48, strides=(2, 1, 1)))
    start_with_motion(model)
    return model


@pytest.mark.parametrize(("step", "other"), [((1, 0), (-1, 0)), ((0, 1), (0, -1)), ((2, 0), (-2, 0))])
def test_detectors_answer_to_direction(step: tuple[int, int], other: tuple[int, int]) -> None:
    cell = started().clstm.get_submodule("cell0")
    first = len(COLOURS)
    angles = 2 * torch.pi * torch.arange(DIRECTIONS) / DIRECTIONS
    along = torch.cos(angles) * step[0] + torch.sin(angles) * step[1]
    with torch.no_grad():
        answers = [cell(drifting(way))[:, 2:, first : first + DIRECTIONS].mean((0, 1, 3, 4)) for way in (step, other, (0, 0))]
    assert float(answers[0] @ along) > 0.05
    assert float(answers[1] @ along) < -0.05
    assert abs(float(answers[2] @ along)) < 0.02


def test_the_logits_start_small_and_without_bias() -> None:
    model = started().eval()
    with torch.no_grad():
        logits = model(drifting((1, 0)).transpose(1, 2))
    assert logits.abs().max() < 0.5
    assert not model.endFC.bias.any()


def test_too_few_channels_are_refused() -> None:
    small = CLSTM(CLSTMConfig(4, frames=2, height=32, width=32, hidden=8, strides=(2, 1, 1)))
    with pytest.raises(ValueError, match="32 channels"):
        start_with_motion(small)
