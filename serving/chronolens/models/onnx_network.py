"""A network inside an ONNX graph that :mod:`chronolens.export.onnx_graph` wrote, run by ONNX Runtime.

It passes for a network wherever only forward passes are wanted: predictions, scores, the ``exhaustive`` mask. Its heat maps of the default
layers come out of the graph itself; nothing here computes a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chronolens.clips import CellGrid
from chronolens.errors import OptionsError, UnknownClassError, UnknownLayerError, WeightsError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class GraphMap:
    """One heat map that a graph gives.

    Args:
        layer: whose.
        output: name of the graph's output.
        cells: where the cells of the map lie on the clip.
        pathway: of a network that has several, else None.
        stage: short name of the layer, if it has one.
    """

    layer: str
    output: str
    cells: CellGrid
    pathway: str | None = None
    stage: str | None = None

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> GraphMap:
        """Undo ``dataclasses.asdict``; raises KeyError or TypeError where that is not what it is."""
        return cls(str(facts["layer"]), str(facts["output"]), CellGrid(**facts["cells"]), facts["pathway"], facts["stage"])


class OnnxNetwork:
    """A :class:`chronolens.explain.protocol.VideoModel` without gradients, parameters or modules.

    Args:
        graph: the file, or its bytes.
        maps: the heat maps that it gives.
        card: number of the graphics card, where there is one.

    Attributes:
        provider: what ONNX Runtime really runs on, ``CUDAExecutionProvider`` or ``CPUExecutionProvider``.

    Raises:
        OptionsError: ONNX Runtime is not installed.
        WeightsError: it cannot read the graph.
    """

    time_first_layers: frozenset[str] = frozenset()
    memory_format: torch.memory_format = torch.contiguous_format
    reads_in_order = False
    training = False

    def __init__(self, graph: Path | bytes, maps: Sequence[GraphMap], card: int = 0) -> None:
        self._maps = {one.layer: one for one in maps}
        self.default_layers = tuple(self._maps)
        stages = dict.fromkeys(one.stage for one in maps if one.stage is not None)
        self.stages = {stage: tuple(one.layer for one in maps if one.stage == stage) for stage in stages}
        self.pathways = tuple(one.pathway for one in maps if one.pathway is not None)
        self._session = open_session(graph, card)
        # not ``onnxruntime.get_device()``: that says GPU even when the session fell back to the processor
        self.provider: str = self._session.get_providers()[0]

    def __call__(self, clip: Tensor) -> Tensor:
        """Return logits (N, K) on the device of the clip (N, C, T, H, W)."""
        return self._run(clip, torch.full((len(clip),), -1), ["logits"])[0]

    def look(self, clip: Tensor, target: int | Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (N, K) and by layer unscaled heat maps (N, T', H', W'): weights per frame, gradient of the logit.

        Args:
            clip: (N, C, T, H, W).
            target: class index for all clips, or (N,) int64 with -1 for the predicted class of that row; None for that of every row.

        Raises:
            UnknownClassError: a target is outside [0, K).
        """
        last, lowest = self.classes - 1, 0 if isinstance(target, int) else -1
        wanted = torch.as_tensor(-1 if target is None else target).broadcast_to(len(clip))
        wrong = wanted[(wanted < lowest) | (wanted > last)].tolist()
        if wrong:
            detail = f"Class {wrong[0]} does not exist; the model has classes 0 to {last}."
            raise UnknownClassError(detail, pointer="/target", limit=last, observed=wrong[0])
        logits, *maps = self._run(clip, wanted, ["logits", *(one.output for one in self._maps.values())])
        return logits, dict(zip(self._maps, maps, strict=True))

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self._session.get_outputs()[0].shape[1])

    def logits_of_orders(self, clip: Tensor, orders: Tensor) -> Tensor:
        """Return logits (B, K) of one clip (1, C, T, H, W) shown in B orders, (B, T) frame indices."""
        return self(clip[0].transpose(0, 1)[orders].transpose(1, 2))

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> None:
        """Return None: the graph makes its own heat map, see :meth:`look`."""

    def pathway_of(self, layer: str) -> str | None:
        """Return in whose time a layer's map is; None where the network has one pathway."""
        return self._maps[layer].pathway

    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        """Return where the cells of a default layer's map lie; the graph takes clips of one size only, so size changes nothing.

        Raises:
            UnknownLayerError: another layer.
        """
        if layer not in self._maps:
            raise UnknownLayerError("The graph has no map of this layer.", pointer="/gradcam/layers", allowed=self.default_layers)
        return self._maps[layer].cells

    def output_of(self, layer: str) -> str:
        """Return the name of the graph's output with the map of a layer."""
        return self._maps[layer].output

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield nothing."""
        return iter(())

    def modules(self) -> Iterator[nn.Module]:
        """Yield nothing."""
        return iter(())

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield nothing."""
        return iter(())

    def _run(self, clip: Tensor, target: Tensor, outputs: list[str]) -> list[Tensor]:
        if clip.requires_grad:
            raise OptionsError("An ONNX graph gives no gradients; only the preset 'exhaustive' needs none.", pointer="/mask/preset")
        pixels = clip.to("cpu", torch.float32).contiguous().numpy()
        found = self._session.run(outputs, {"clip": pixels, "target": target.to("cpu", torch.int64).contiguous().numpy()})
        return [torch.from_numpy(values).to(clip.device) for values in found]


def open_session(graph: Path | bytes, card: int = 0) -> Any:
    """Return a session of ONNX Runtime, on CUDA where it can, with our threads.

    Raises:
        OptionsError: ONNX Runtime is not installed.
        WeightsError: it cannot read the graph.
    """
    try:
        import onnxruntime
    except ImportError:
        raise OptionsError("ONNX Runtime is not installed: pip install chronolens[onnx]") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that spin crawl on a busy machine
    providers: list[Any] = [CPU]
    if CUDA in onnxruntime.get_available_providers():
        providers.insert(0, (CUDA, {"use_tf32": "0", "device_id": str(card)}))  # 10 bits of mantissa are not float32
    try:
        return onnxruntime.InferenceSession(graph if isinstance(graph, bytes) else str(graph), options, providers=providers)
    except Exception as error:  # its own classes have no common base
        raise WeightsError("ONNX Runtime cannot read the graph") from error
