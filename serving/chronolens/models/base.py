"""What every architecture offers beside its logits."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from chronolens.clips import CellGrid


class VideoNetwork(nn.Module, ABC):
    """A classifier of clips: (N, 3, T, H, W) float32, prepared by the clip spec of its weights, to logits (N, num_classes).

    Attributes:
        default_layer: dotted name of the module whose output is mapped by Grad-CAM unless the caller names another.
        time_first_layers: modules that return (N, T, C, H, W); all others return (N, C, T, H, W).
        memory_format: in which low-precision arithmetic is fastest.
        reads_in_order: frames are read one after another, and ``logits_of_orders`` reads common beginnings once.
    """

    default_layer: str
    time_first_layers: frozenset[str] = frozenset()
    memory_format: torch.memory_format = torch.contiguous_format
    reads_in_order: bool = False

    def logits_of_orders(self, clip: Tensor, orders: Tensor) -> Tensor:
        """Return logits (B, num_classes) of one clip (1, 3, T, H, W) shown in B orders, (B, T) frame indices; evaluation mode only.

        The same as the logits of ``clip[:, :, orders]``, cheaper where ``reads_in_order``.
        """
        return self(clip[0].transpose(0, 1)[orders].transpose(1, 2))  # type: ignore[no-any-return]

    def linear_head(self, steps: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """Return what the closed form of Grad-CAM needs, for activations of the default layer with T' x H' x W' positions.

        Returns:
            Classifier weights (num_classes, C) and the share (T', H', W') with which each position enters the logits (sums to 1);
            None when the logits are not linear in the default layer, so that Grad-CAM takes a backward pass.
        """
        return None

    @abstractmethod
    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        """Return where the cells of a layer's map lie on a clip of this size.

        Args:
            layer: dotted module name that Grad-CAM accepts.
            frames, height, width: size of the prepared clip.
        """
