"""Artefacts of the tiny networks, each made once."""

import pytest
import torch

from chronolens.clips import CellGrid
from chronolens.export import onnx_graph
from chronolens.export.run import export
from chronolens.models import build_model
from chronolens.models.onnx_network import GraphMap, OnnxNetwork
from chronolens.models.weights import find_record, load_model

SHAPE = (3, 8, 32, 32)
GRID = CellGrid((1, 1, 1), (0.5, 0.5, 0.5))


def eager(store, name):
    return load_model(find_record(store, name), store)


@pytest.fixture(scope="session")
def clstm_artefact(tiny_store):
    """Folder of the C-LSTM as ONNX, at its default place, and its manifest."""
    return export("onnx", "tiny-clstm", tiny_store)


@pytest.fixture(scope="session")
def clstm(tiny_store, clstm_artefact):
    """The C-LSTM in PyTorch and as its graph."""
    return eager(tiny_store, "tiny-clstm"), OnnxNetwork(clstm_artefact[0] / "model.onnx", [GraphMap("clstm.cell1", "heat_map", GRID)])


@pytest.fixture(scope="session", params=["global", "sliding"])
def i3d(request):
    """An I3D with each of its heads, in PyTorch and as its graph."""
    torch.manual_seed(3)
    network = build_model("i3d", num_classes=4, temporal_strides=(2, 1, 1), last_stride=1, head=request.param).eval().requires_grad_(False)
    # a fresh network's activations die out on their way: wider ones make maps worth comparing
    for name, value in network.named_parameters():
        if name.endswith("conv3d.weight"):
            value.mul_(1.6)
    return network, OnnxNetwork(onnx_graph.build(network, SHAPE), [GraphMap("Mixed_5c", "heat_map", GRID)])


@pytest.fixture(scope="session", params=["tsm", "slowfast"])
def residual(request):
    """A TSM, and a SlowFast with its two maps, in PyTorch and as their graphs."""
    torch.manual_seed(3)
    narrow = {"tsm": {"width": 16, "last_stride": 1}, "slowfast": {"width": 16, "beta": 4, "last_stride": 1}}[request.param]
    network = build_model(request.param, num_classes=4, depth=18, **narrow)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():  # one batch sets the running statistics: activations of size 1
        network.train()(torch.randn(2, *SHAPE))
    network.eval().requires_grad_(False)
    outputs = ["heat_map"] if request.param == "tsm" else ["heat_map_0", "heat_map_1"]
    maps = [GraphMap(layer, output, GRID) for layer, output in zip(network.default_layers, outputs, strict=True)]
    return network, OnnxNetwork(onnx_graph.build(network, SHAPE), maps)
