"""Networks small enough to follow with a pencil."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


class Pencil(nn.Module):
    """A 1x1x1 convolution ``conv`` into channels (x, -x), ``act``, a weighted mean over positions, a linear layer ``head``."""

    default_layers = ("conv",)

    def __init__(self, head: list[list[float]], share: list[float] | None = None, *, closed: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1, bias=False)
        self.act = nn.Identity()
        self.head = nn.Linear(2, len(head), bias=False)
        self.share, self.closed, self.fails = torch.tensor(share or [1.0]), closed, False
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1, 1))
            self.head.weight.copy_(torch.tensor(head))

    def shares(self, steps: int, height: int, width: int) -> Tensor:
        step = self.share[:steps] if len(self.share) > 1 else torch.full((steps,), 1.0 / steps)
        return step[:, None, None].expand(steps, height, width) / (height * width)

    def forward(self, clip: Tensor) -> Tensor:
        maps = self.act(self.conv(clip))
        if self.fails:
            raise RuntimeError("broken on purpose")
        return self.head((maps * self.shares(*maps.shape[2:])).sum(dim=(2, 3, 4)))

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        return (self.head.weight, self.shares(steps, height, width)) if self.closed else None


class Score(nn.Module):
    """Two classes: the logit of class 0 is a formula of the mean brightness b_t of the T frames, that of class 1 is zero."""

    default_layers = ("none",)

    def __init__(self, formula: object) -> None:
        super().__init__()
        self.formula = formula
        self.calls: list[int] = []

    def forward(self, clip: Tensor) -> Tensor:
        self.calls.append(len(clip))
        first = self.formula(clip.mean(dim=(1, 3, 4)))  # type: ignore[operator]
        return torch.stack([first, torch.zeros_like(first)], dim=1)

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> None:
        return None


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def pencil() -> type[Pencil]:
    return Pencil


@pytest.fixture
def score_model() -> type[Score]:
    return Score


@pytest.fixture
def clip_of() -> object:
    """Turn T brightness values into a clip (1, 1, T, 2, 2)."""

    def make(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype).reshape(1, 1, -1, 1, 1).repeat(1, 1, 1, 2, 2)

    return make


def flicker(brightness: Tensor) -> Tensor:
    """High while frames 6 to 9 change, at most four changes of 1: logit 3 for four, -3 for none."""
    return 1.5 * (brightness[:, 6:10] - brightness[:, 5:9]).abs().sum(dim=1) - 3.0


def rise(brightness: Tensor) -> Tensor:
    """High when frames 5 to 10 become brighter; their mirror image gives the negative logit."""
    weights = torch.arange(6, dtype=brightness.dtype) - 2.5
    return 0.7 * (weights * brightness[:, 5:11]).sum(dim=1)


@pytest.fixture
def motion(score_model: type[Score], clip_of: object) -> tuple[Score, Tensor]:
    """A model of change in frames 6 to 9 and a clip that flickers everywhere; p = 0.9526."""
    return score_model(flicker), clip_of([float(t % 2) for t in range(16)])  # type: ignore[operator]


@pytest.fixture
def order(score_model: type[Score], clip_of: object) -> tuple[Score, Tensor]:
    """A model of the order of frames 5 to 10 and a clip that rises from 0 to 2.5 there."""
    return score_model(rise), clip_of([min(max(t - 5.0, 0.0), 5.0) / 2 for t in range(16)])  # type: ignore[operator]
