"""Somebody else's network among ours: an adapter around any ``nn.Module``, and what tells one such network from another."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from chronolens.clips import CellGrid
from chronolens.errors import PluginError
from chronolens.models.base import VideoNetwork


class Plugged(VideoNetwork):
    """A network of which no more is known than its ``forward`` and the names of some layers, which stay those of its own modules.

    Args:
        network: clips (N, 3, T, H, W) to logits (N, K).
        cells: the layers that Grad-CAM may map, in the order in which they were named, with their sizes (T', H', W').
        default_layer: one of them, or None when there are none.
        time_first_layers: those of them that return (N, T', C, H', W').
    """

    def __init__(
        self,
        network: nn.Module,
        cells: Mapping[str, tuple[int, int, int]],
        default_layer: str | None = None,
        time_first_layers: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.default_layers = () if default_layer is None else (default_layer,)
        self.time_first_layers = frozenset(time_first_layers)
        self.stages = {layer: (layer,) for layer in cells}  # so that ``all`` has a meaning
        self._cells = dict(cells)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (N, K); the clip is laid out anew, because a network may want to ``view`` it."""
        logits: Tensor = self.network(clip.contiguous())
        return logits

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules of the network by its own names, as if there were no adapter; those that refuse hooks are left out."""
        for name, module in self.network.named_modules(memo, prefix, remove_duplicate):
            if not isinstance(module, torch.jit.ScriptModule):
                yield name, module

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the network by its own names, those of scripted modules too."""
        yield from self.network.named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers of the network by its own names, those of scripted modules too."""
        yield from self.network.named_buffers(prefix, recurse, remove_duplicate)

    def mappable(self, layers: Sequence[str]) -> list[str]:
        """See :meth:`VideoNetwork.mappable`; here those that were named, because of others nobody has said which axis is time."""
        return [layer for layer in layers if layer in self._cells]

    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        """See :meth:`VideoNetwork.cell_grid`; the cells are assumed to divide the clip evenly."""
        stride = tuple(size / cells for size, cells in zip((frames, height, width), self._cells[layer], strict=True))
        time, row, column = stride
        return CellGrid((time, row, column), (time / 2, row / 2, column / 2))


def weights_digest(network: nn.Module) -> str:
    """Return the SHA-256 over the tensors of ``state_dict()``, sorted by name: names, types, shapes and bytes.

    Raises:
        PluginError: one of them has no shape yet, as in ``nn.LazyLinear`` before its first clip.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if is_lazy(value):
            raise PluginError(f"its parameter {name!r} is not initialised; let the network see one clip, or load its weights, first")
        if isinstance(value, Tensor):
            digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode() + b"\0")
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def code_digest(network: nn.Module) -> str:
    """Return the SHA-256 over the files in which the classes of a network and of its modules are written, those of PyTorch apart.

    Of a file that cannot be read only the name of the module counts.
    """
    digest = hashlib.sha256()
    for name in sorted({type(part).__module__ for part in network.modules()}):
        file = getattr(sys.modules.get(name), "__file__", None)
        if name.partition(".")[0] != "torch" and file is not None:
            try:
                body = Path(file).read_bytes()
            except (OSError, ValueError, TypeError):  # inside an archive, or gone since it was imported
                body = b""
            digest.update(name.encode() + b"\0" + body + b"\0")
    return digest.hexdigest()
