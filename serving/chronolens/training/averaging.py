"""An exponential moving average of the weights: smoother than the last step, for the price of one copy."""

from __future__ import annotations

import copy

import torch

from chronolens.models.base import VideoNetwork


class Average:
    """Keeps ``decay * average + (1 - decay) * weights`` of the parameters; buffers are copied as they are.

    Early on the decay is smaller, ``(1 + n) / (10 + n)`` after n updates, so that the random start is soon forgotten.
    """

    def __init__(self, model: VideoNetwork, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: VideoNetwork) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, value in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for kept, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
