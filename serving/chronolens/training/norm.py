"""Statistics of BatchNorm layers: measuring them afresh, and training with them as they are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a network."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def use_running(model: nn.Module) -> None:
    """Make BatchNorm use and keep its running statistics, while the rest of the network trains."""
    for norm in norms(model):
        norm.eval()


@torch.no_grad()
def recalibrate(model: nn.Module, clips: Iterable[Tensor]) -> None:
    """Replace the running statistics by the plain average over some batches of prepared clips (N, 3, T, H, W).

    For a layer that is used several times in one pass, as in the C-LSTM, the average runs over all its uses.
    """
    before = {norm: norm.momentum for norm in norms(model)}
    training = model.training
    model.eval()
    for norm in before:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for clip in clips:
        model(clip)
    for norm, momentum in before.items():
        norm.momentum = momentum
    model.train(training)
