"""A network and its Grad-CAM as one graph without autograd: what every graph format is made of.

    clip (N, 3, T, H, W) float32, target (N,) int64  ->  logits (N, K), scores (N, K), explained (N,), heat_map (N, T', H', W')

Traced once, forward and backward, so it works for every network that Grad-CAM works for; nothing is known here of any architecture.
"""

from __future__ import annotations

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
OUTPUTS = ("logits", "scores", "explained", "heat_map")
INTERFACE: dict[str, Any] = {
    "inputs": list(INPUTS),
    "outputs": list(OUTPUTS),
    "heat_map": {"weights": "per_frame", "of": "logit", "scaled": False},
}
"""What a manifest says about such a graph."""
Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def explaining(model: VideoModel, clip: tuple[int, int, int, int]) -> ExportedProgram:
    """Return the graph of a network with its Grad-CAM: default layer, weights per frame, gradient of the logit, unscaled.

    The number of clips is dynamic, from 1 on; their shape is fixed. A target of -1 stands for the predicted class of that row, which
    ``explained`` names.

    Args:
        model: any video model, on the CPU.
        clip: (C, T, H, W) of a prepared clip.

    Raises:
        ExportError: the network cannot be traced, such as one whose path depends on values.
        UnknownLayerError: its default layer cannot be explained.
    """
    example = (torch.zeros(2, *clip), torch.tensor([-1, 0]))  # two rows: PyTorch takes a size of one for fixed
    count = Dim("clips", min=1)
    try:
        with quiet(), gradients(), frozen(model):
            table = backward_table()
            # the weights are real tensors, the rest is traced by shape alone
            trace = make_fx(_explainer(model), decomposition_table=table, tracing_mode="symbolic", _allow_non_fake_inputs=True)
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


def _explainer(model: VideoModel) -> Any:
    layer = model.default_layer
    axis = channel_axis(model, layer)

    def explain(clip: Tensor, target: Tensor) -> Outputs:
        with capture(model, [layer], gradients=True) as taps:
            logits = model(clip)
            tap = taps[layer]
        explained = torch.where(target < 0, logits.detach().argmax(dim=1), target)
        total = logits.gather(1, explained[:, None]).sum()  # rows are independent, so one sum gives every clip its own gradient
        (slope,) = torch.autograd.grad(total, tap)
        weights = slope.transpose(1, axis).mean(dim=(3, 4))
        maps = torch.relu(torch.einsum("nkt,nkthw->nthw", weights, tap.detach().transpose(1, axis)))
        return logits.detach(), torch.softmax(logits.detach(), dim=1), explained, maps

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
