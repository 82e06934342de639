"""``onnx``: one file ``model.onnx`` with weights and Grad-CAM inside, for any runtime of ONNX; see :mod:`chronolens.export.traced`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from chronolens.errors import ExportError, OptionsError
from chronolens.explain.protocol import VideoModel
from chronolens.export.kind import Answer, Ask, Kind, Options, Subject
from chronolens.export.quiet import quiet
from chronolens.export.traced import INPUTS, explaining, first_line, heat_map_names, interface
from chronolens.models.onnx_network import GraphMap, OnnxNetwork

FILE = "model.onnx"
OPSET = 18
"""The oldest that PyTorch's exporter writes: the more runtimes can read it."""


def build(model: VideoModel, clip: tuple[int, int, int, int]) -> bytes:
    """Return a network with its Grad-CAM as one ONNX file.

    Args:
        model: any video model, on the CPU.
        clip: (C, T, H, W) of a prepared clip.

    Raises:
        ExportError: the network cannot be traced, or has an operator that ONNX has no word for.
        OptionsError: the exporter's packages are not installed.
    """
    program = explaining(model, clip)
    try:
        import onnx
        import onnxscript  # noqa: F401  # PyTorch's exporter needs it and would say so less clearly
    except ImportError:
        raise OptionsError("the exporter to ONNX is not installed: pip install chronolens[onnx]", pointer="/kind") from None
    proto = _converted(program, interface(model)["outputs"])
    _strip(proto)
    _name_batch(proto)
    onnx.checker.check_model(proto, full_check=True)
    body: bytes = proto.SerializeToString(deterministic=True)
    return body


def _converted(program: ExportedProgram, outputs: list[str]) -> Any:
    try:
        with quiet():
            found = torch.onnx.export(
                program, (), input_names=list(INPUTS), output_names=outputs, opset_version=OPSET, external_data=False, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"The network cannot be written as ONNX: {first_line(error)}") from error
    if found is None:
        raise ExportError("The exporter to ONNX returned no graph.")
    return found.model_proto


def _strip(proto: Any) -> None:
    """Remove remarks of the exporter, which name files and folders of this machine."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, *proto.functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _name_batch(proto: Any) -> None:
    """Call the one dynamic size N instead of the tracer's symbol."""
    for value in (*proto.graph.input, *proto.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.dim_param = "N"
    del proto.graph.value_info[:]  # shapes between, in the tracer's symbols; every runtime infers them itself


def write(subject: Subject, folder: Path) -> Options:
    """Write the graph of a model, see :class:`chronolens.export.kind.Kind`."""
    spec = subject.record.clip
    (folder / FILE).write_bytes(build(subject.network, (3, spec.frames, spec.height, spec.width)))
    return {"opset": OPSET, **interface(subject.network)}


def load(subject: Subject, folder: Path) -> Ask:
    """Read the graph back, see :class:`chronolens.export.kind.Kind`."""
    found = OnnxNetwork(folder / FILE, graph_maps(subject))
    return lambda probe: Answer(*found.look(probe.clip, probe.target))


def graph_maps(subject: Subject) -> list[GraphMap]:
    """Return what the graph's heat maps are of."""
    spec, network = subject.record.clip, subject.network
    names = heat_map_names(len(network.default_layers))
    stages = {layer: stage for stage, layers in network.stages.items() for layer in layers}
    return [
        GraphMap(
            layer,
            output,
            network.cell_grid(layer, spec.frames, spec.height, spec.width),
            network.pathway_of(layer),
            stages.get(layer),
        )
        for layer, output in zip(network.default_layers, names, strict=True)
    ]


ONNX = Kind(write, load, ("onnx", "onnxscript", "onnxruntime"))
