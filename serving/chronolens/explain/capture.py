"""Taps into a network: hooks that live only inside a ``with`` block."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from chronolens.errors import UnknownLayerError
from chronolens.explain.protocol import VideoModel, frozen


class Taps:
    """What the tapped layers returned during the forward pass of this thread; those of other requests pass by untouched.

    Args:
        gradients: make the outputs part of a graph that starts at the earliest tapped layer of each path.
    """

    def __init__(self, gradients: bool) -> None:
        self._gradients = gradients
        self._outputs: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._thread = threading.get_ident()

    def __getitem__(self, layer: str) -> Tensor:
        """Return the output of a layer.

        Raises:
            UnknownLayerError: the layer did not run exactly once, or returned no tensor.
        """
        if self._calls.get(layer, 0) != 1 or layer not in self._outputs:
            raise UnknownLayerError(
                f"Layer {layer!r} has no single output tensor to explain: it ran {self._calls.get(layer, 0)} times.",
                pointer="/gradcam/layers",
            )
        return self._outputs[layer]

    def record(self, layer: str, output: Any) -> Any:
        """Keep the output; return what the network goes on with."""
        if threading.get_ident() != self._thread:
            return output
        self._calls[layer] = self._calls.get(layer, 0) + 1
        if not isinstance(output, Tensor):
            return output
        if not self._gradients:
            self._outputs[layer] = output
            return output
        tap = output if output.requires_grad else output.detach().requires_grad_()
        self._outputs[layer] = tap
        return tap.clone()  # a layer that works in place must not overwrite the tap


@contextmanager
def capture(model: VideoModel, layers: Sequence[str], *, gradients: bool = False) -> Iterator[Taps]:
    """Tap layers of a model for the length of a ``with`` block; the hooks are removed however the block ends.

    Args:
        model: any video model.
        layers: dotted module names.
        gradients: build a graph from the tapped layers on, so that ``torch.autograd.grad`` can differentiate by the taps. Layers before
            them get no graph and no backward pass.

    Yields:
        Taps, filled by the one forward pass inside the block.

    Raises:
        UnknownLayerError: no such module; the message lists the nearest names.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    for layer in layers:
        if layer not in modules:
            raise unknown_layer(layer, list(modules))
    taps = Taps(gradients)
    handles: list[RemovableHandle] = []
    try:
        for layer in dict.fromkeys(layers):
            handles.append(modules[layer].register_forward_hook(_hook(taps, layer)))
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _hook(taps: Taps, layer: str) -> Any:
    def record(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return taps.record(layer, output)

    return record


def unknown_layer(layer: str, names: Sequence[str]) -> UnknownLayerError:
    """Return the error for a wrong layer name, with the nearest names first in its list."""
    near = difflib.get_close_matches(layer[:200], names, n=5, cutoff=0.5)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    rest = [name for name in names if name not in near]
    return UnknownLayerError(f"The model has no layer {layer[:80]!r}.{hint}", pointer="/gradcam/layers", allowed=[*near, *rest])


def valid_layers(model: VideoModel, clip_shape: tuple[int, int, int, int]) -> list[str]:
    """List the layers that Grad-CAM can explain, in the order in which they run. Costs one forward pass over zeros.

    Args:
        model: any video model.
        clip_shape: (C, T, H, W) of a prepared clip.

    Returns:
        Names of the modules that run exactly once and return one five-dimensional tensor.
    """
    seen: dict[str, list[bool]] = {}

    def hook(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.setdefault(name, []).append(isinstance(output, Tensor) and output.ndim == 5)

        return note

    handles: list[RemovableHandle] = []
    first = next(iter(model.parameters()), torch.zeros(()))
    try:
        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_hook(hook(name)))
        with frozen(model), torch.no_grad():
            model(torch.zeros(1, *clip_shape, dtype=first.dtype, device=first.device))
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, calls in seen.items() if calls == [True]]
