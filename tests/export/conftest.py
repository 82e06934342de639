"""Artefacts of the tiny networks, each made once."""

import pytest
import torch

from chronolens.clips import CellGrid
from chronolens.export import onnx_graph
from chronolens.export.run import export
from chronolens.models import build_model
from chronolens.models.onnx_network import OnnxNetwork
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
    return eager(tiny_store, "tiny-clstm"), OnnxNetwork(clstm_artefact[0] / "model.onnx", "clstm.cell1", GRID)


@pytest.fixture(scope="session", params=["global", "sliding"])
def i3d(request):
    """An I3D with each of its heads, in PyTorch and as its graph."""
    torch.manual_seed(3)
    network = build_model("i3d", num_classes=4, temporal_strides=(2, 1, 1), last_stride=1, head=request.param).eval().requires_grad_(False)
    # a fresh network's activations die out on their way: wider ones make maps worth comparing
    for name, value in network.named_parameters():
        if name.endswith("conv3d.weight"):
            value.mul_(1.6)
    return network, OnnxNetwork(onnx_graph.build(network, SHAPE), "Mixed_5c", GRID)
