"""What every architecture offers beside its logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from chronolens.clips import CellGrid


class VideoNetwork(nn.Module, ABC):
    """A classifier of clips: (N, 3, T, H, W) float32, prepared by the clip spec of its weights, to logits (N, num_classes).

    Attributes:
        default_layers: dotted names of the modules whose outputs are mapped by Grad-CAM unless the caller names others, one a pathway.
        stages: name of each stage (``stage1``, ...) to the modules that end it, one a pathway, in the order in which they run.
        pathways: names of the pathways of a network that has several.
        time_first_layers: modules that return (N, T, C, H, W); all others return (N, C, T, H, W).
        memory_format: in which low-precision arithmetic is fastest.
        reads_in_order: frames are read one after another, and ``logits_of_orders`` reads common beginnings once.
    """

    default_layers: tuple[str, ...]
    stages: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    pathways: tuple[str, ...] = ()
    time_first_layers: frozenset[str] = frozenset()
    memory_format: torch.memory_format = torch.contiguous_format
    reads_in_order: bool = False

    def logits_of_orders(self, clip: Tensor, orders: Tensor) -> Tensor:
        """Return logits (B, num_classes) of one clip (1, 3, T, H, W) shown in B orders, (B, T) frame indices; evaluation mode only.

        The same as the logits of ``clip[:, :, orders]``, cheaper where ``reads_in_order``.
        """
        return self(clip[0].transpose(0, 1)[orders].transpose(1, 2))  # type: ignore[no-any-return]

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """Return what the closed form of Grad-CAM needs, for activations of a layer with T' x H' x W' positions.

        Returns:
            Classifier weights (num_classes, C) and the share (T', H', W') with which each position enters the logits (sums to 1);
            None when the logits are not linear in this layer, so that Grad-CAM takes a backward pass.
        """
        return None

    def pathway_of(self, layer: str) -> str | None:
        """Return in whose time a layer's map is; None where the network has one pathway."""
        return None

    def mappable(self, layers: Sequence[str]) -> list[str]:
        """Return which layers Grad-CAM may map, out of those with places, in the order in which they run.

        These are all up to the last default layer: beyond it there are no places any more.
        """
        last = max(layers.index(layer) for layer in self.default_layers)
        return list(layers[: last + 1])

    @abstractmethod
    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        """Return where the cells of a layer's map lie on a clip of this size.

        Args:
            layer: dotted module name that Grad-CAM accepts.
            frames, height, width: size of the prepared clip.
        """
