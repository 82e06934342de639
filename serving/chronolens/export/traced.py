"""A network and its Grad-CAM as one graph without autograd: what every graph format is made of.

    clip (N, 3, T, H, W) float32, target (N,) int64  ->  logits (N, K), scores (N, K), explained (N,), heat_map (N, T', H', W')

A network with several pathways has a map of each, ``heat_map_0``, ``heat_map_1``, in the order of its default layers.

Traced once, forward and backward, so it works for every network that Grad-CAM works for; nothing is known here of any architecture.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode  # PyTorch has no public name for it
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from chronolens.errors import ExportError
from chronolens.explain.capture import capture
from chronolens.explain.grad_cam import channel_axis
from chronolens.explain.protocol import VideoModel, frozen, gradients
from chronolens.export.backward import backward_table
from chronolens.export.quiet import quiet

INPUTS = ("clip", "target")
ANSWERS = ("logits", "scores", "explained")


def heat_map_names(count: int) -> list[str]:
    """Return what the outputs of so many heat maps are called."""
    return ["heat_map"] if count == 1 else [f"heat_map_{number}" for number in range(count)]


def interface(model: VideoModel) -> dict[str, Any]:
    """Return what a manifest says about the graph of a network."""
    return {
        "inputs": list(INPUTS),
        "outputs": [*ANSWERS, *heat_map_names(len(model.default_layers))],
        "heat_map": {"weights": "per_frame", "of": "logit", "scaled": False},
    }


def explaining(model: VideoModel, clip: tuple[int, int, int, int]) -> ExportedProgram:
    """Return the graph of a network with its Grad-CAM: default layers, weights per frame, gradient of the logit, unscaled.

    The number of clips is dynamic, from 1 on; their shape is fixed. A target of -1 stands for the predicted class of that row, which
    ``explained`` names.

    Args:
        model: any video model, on the CPU.
        clip: (C, T, H, W) of a prepared clip.

    Raises:
        ExportError: the network cannot be traced, such as one whose path depends on values.
        UnknownLayerError: a default layer cannot be explained.
    """
    example = (torch.zeros(2, *clip), torch.tensor([-1, 0]))  # two rows: PyTorch takes a size of one for fixed
    count = Dim("clips", min=1)
    try:
        with quiet(), gradients(), frozen(model):
            table = backward_table()
            # the weights are real tensors, the rest is traced by shape alone
            explain = _explainer(_in_plain_order(model))
            trace = make_fx(explain, decomposition_table=table, tracing_mode="symbolic", _allow_non_fake_inputs=True)
            graph = trace(*_of_any_count(example))
            program = torch.export.export(graph.eval(), example, dynamic_shapes=({0: count}, {0: count}))
    except RuntimeError as error:
        raise ExportError(f"The network cannot be traced: {first_line(error)}") from error
    return _without_origins(program)


def first_line(error: BaseException) -> str:
    """Return the first line of what began a chain of errors, cut to 200 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _in_plain_order(model: VideoModel) -> VideoModel:
    """Return a copy whose weights lie in memory in the order of their axes: a graph must not depend on any other."""
    plain = copy.deepcopy(model)
    for value in plain.parameters():
        value.data = value.data.contiguous()
    return plain


def _explainer(model: VideoModel) -> Any:
    layers = model.default_layers
    axes = [channel_axis(model, layer) for layer in layers]

    def explain(clip: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        with capture(model, layers, gradients=True) as taps:
            logits = model(clip)
            tapped = [taps[layer] for layer in layers]
        explained = torch.where(target < 0, logits.detach().argmax(dim=1), target)
        total = logits.gather(1, explained[:, None]).sum()  # rows are independent, so one sum gives every clip its own gradient
        maps = []
        for tap, slope, axis in zip(tapped, torch.autograd.grad(total, tapped) if tapped else (), axes, strict=True):
            weights = slope.transpose(1, axis).mean(dim=(3, 4))
            # not as a matrix product: that would view the map in another shape, which works for one order in memory only
            maps.append(torch.relu((weights[..., None, None] * tap.detach().transpose(1, axis)).sum(dim=1)))
        return logits.detach(), torch.softmax(logits.detach(), dim=1), explained, *maps

    return explain


def _of_any_count(example: tuple[Tensor, ...]) -> list[Tensor]:
    """Return stand-ins of the examples whose first size is a symbol; left to itself the tracer makes one of every size, and takes long."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = [[DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * (value.ndim - 1) for value in example]
    contexts = [StatelessSymbolicContext(dynamic_sizes=size) for size in sizes]  # type: ignore[var-annotated]
    return [mode.from_tensor(value, symbolic_context=context) for value, context in zip(example, contexts, strict=True)]


def _without_origins(program: ExportedProgram) -> ExportedProgram:
    """Forget which lines of which files the operators came from, which name folders of this machine, and the clips it was traced with."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta = {key: value for key, value in node.meta.items() if key in ("val", "unbacked_bindings")}
    return program
