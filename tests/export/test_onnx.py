"""The graph answers as PyTorch does: logits, chosen classes and heat maps, for any number of clips."""

import sys
from pathlib import Path

import onnx
import pytest
import torch

from chronolens.clips import CellGrid
from chronolens.errors import ExportError, OptionsError, UnknownClassError, UnknownLayerError, WeightsError
from chronolens.explain import temporal_mask
from chronolens.explain.grad_cam import grad_cam, heat_maps, scale
from chronolens.explain.presets import settings
from chronolens.export import onnx_graph
from chronolens.export.loading import open_onnx
from chronolens.models import onnx_network
from chronolens.models.onnx_network import GraphMap, OnnxNetwork

SHAPE = (3, 8, 32, 32)
GRID = CellGrid((1, 1, 1), (0.5, 0.5, 0.5))


def clips(count, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def check(network, graph, count):
    clip = clips(count)
    expected = heat_maps(network, clip, None)
    logits, maps = graph.look(clip, None)
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert list(maps) == list(network.default_layers)
    for layer, wanted in expected.maps.items():
        assert float(wanted.amax()) > 0
        torch.testing.assert_close(scale(maps[layer]), scale(wanted), atol=1e-4, rtol=0)
        torch.testing.assert_close(maps[layer], wanted, atol=1e-5 * float(wanted.amax()), rtol=1e-4)
        for target in range(4):
            exact = grad_cam(network, clip, target, layer=layer)
            torch.testing.assert_close(scale(graph.look(clip, target)[1][layer]), exact, atol=1e-4, rtol=0)
        mixed = torch.tensor([-1, 3, 0, 1, -1][:count])
        chosen = torch.where(mixed < 0, logits.argmax(dim=1), mixed)
        exact = grad_cam(network, clip, chosen, layer=layer)
        torch.testing.assert_close(scale(graph.look(clip, mixed)[1][layer]), exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_lstm_answers_alike(clstm, count):
    check(*clstm, count)


@pytest.mark.parametrize("count", [1, 3])
def test_networks_of_residual_blocks_answer_alike_with_a_map_a_pathway(residual, count):
    check(*residual, count)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_convolutional_network_answers_alike_with_both_heads(i3d, count):
    check(*i3d, count)


class Plugged(torch.nn.Module):
    """A network that nobody foresaw: its head strides, dilates, pools with padding and groups channels."""

    default_layers = ("stem",)

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv3d(3, 8, 3, (1, 2, 2), 1)
        self.body = torch.nn.Sequential(
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv3d(8, 8, 3, (2, 2, 1), (1, 0, 1), (1, 2, 1), groups=2),
            torch.nn.BatchNorm3d(8),
            torch.nn.SiLU(),
            torch.nn.MaxPool3d(3, (1, 2, 2), 1),
            torch.nn.AvgPool3d((1, 2, 3), (1, 1, 2), (0, 1, 1)),
            torch.nn.GroupNorm(2, 8),
            torch.nn.AdaptiveAvgPool3d(1),
            torch.nn.Flatten(),
        )
        self.head = torch.nn.Linear(8, 4)

    def linear_head(self, layer: str, steps, height, width):
        return None

    def forward(self, clip):
        return self.head(self.body(self.stem(clip)))


def test_a_plugged_in_network_needs_no_code_of_its_own():
    torch.manual_seed(1)
    network = Plugged().eval().requires_grad_(False)
    graph = OnnxNetwork(onnx_graph.build(network, SHAPE), [GraphMap("stem", "heat_map", GRID)])
    for count in (1, 3):
        check(network, graph, count)


def test_a_network_that_decides_by_values_is_refused():
    class Deciding(Plugged):
        def forward(self, clip):
            return super().forward(clip if bool(clip.mean() > 0) else -clip)

    with pytest.raises(ExportError, match="cannot be traced"):
        onnx_graph.build(Deciding(), SHAPE)


def test_an_operator_without_a_word_in_onnx_is_refused():
    class Strange(Plugged):
        def forward(self, clip):
            return super().forward(clip) + torch.linalg.eigvalsh(clip[:, :, 0, :3, :3].sum(dim=1))[:, :1]

    with pytest.raises(ExportError, match="cannot be written as ONNX"):
        onnx_graph.build(Strange(), SHAPE)


def test_the_graph_is_one_file_that_names_no_folder(clstm_artefact):
    folder, manifest = clstm_artefact
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
    body = (folder / "model.onnx").read_bytes()
    proto = onnx.load_from_string(body)
    onnx.checker.check_model(proto, full_check=True)
    assert not [one.name for one in proto.graph.initializer if one.external_data]
    for named in (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), str(Path.home()), "site-packages", ".py"):
        assert named.encode() not in body
        assert named not in (folder / "manifest.json").read_text(encoding="utf-8")
    sizes = {one.name: [size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim] for one in proto.graph.output}
    assert sizes == {"logits": ["N", 4], "scores": ["N", 4], "explained": ["N"], "heat_map": ["N", 8, 4, 4]}
    assert [one.name for one in proto.graph.input] == ["clip", "target"] == manifest.options["inputs"]


def test_scores_and_explained_class_come_out_too(clstm):
    network, graph = clstm
    clip = clips(2)
    scores, explained = graph._run(clip, torch.tensor([-1, 2]), ["scores", "explained"])
    torch.testing.assert_close(scores, torch.softmax(network(clip), dim=1), atol=1e-6, rtol=0)
    assert explained.tolist() == [int(network(clip)[0].argmax()), 2]


def test_the_exhaustive_mask_is_the_same(clstm):
    network, graph = clstm
    clip, options = 3 * clips(1, seed=2), settings("exhaustive", "freeze")
    target = int(network(clip).argmax())
    masks = []
    for model in (network, graph):
        state = temporal_mask.begin(options, SHAPE[1])
        while not state.done:
            state = temporal_mask.advance(model, clip, target, options, state)
        masks.append(temporal_mask.finished(state, options))
    eager, exported = masks
    assert exported.values == eager.values
    assert sum(eager.values) > 0
    assert exported.objective.total == pytest.approx(eager.objective.total, abs=1e-3)
    assert exported.passes.input_gradient == 0


def test_gradients_layers_and_classes_that_are_not_there_are_refused(clstm):
    graph = clstm[1]
    with pytest.raises(OptionsError, match="exhaustive"):
        graph(clips(1).requires_grad_())
    with pytest.raises(UnknownLayerError):
        graph.cell_grid("clstm.cell0", 8, 32, 32)
    for target in (4, -1, torch.tensor([0, -2])):
        with pytest.raises(UnknownClassError):
            graph.look(clips(2), target)


def test_it_passes_for_a_network(clstm):
    network, graph = clstm
    orders = torch.tensor([[0, 0, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0]])
    torch.testing.assert_close(graph.logits_of_orders(clips(1), orders), network.logits_of_orders(clips(1), orders), atol=1e-5, rtol=1e-5)
    assert (graph.provider, graph.linear_head("stem", 1, 1, 1), graph.classes) == ("CPUExecutionProvider", None, 4)
    assert [*graph.modules(), *graph.named_modules(), *graph.parameters()] == []


def test_an_artefact_opens_by_its_folder(clstm_artefact, clstm):
    manifest, graph = open_onnx(clstm_artefact[0])
    assert manifest == clstm_artefact[1]
    grid = clstm[0].cell_grid("clstm.cell1", 8, 32, 32)
    assert graph.cell_grid("clstm.cell1", 8, 32, 32) == grid == CellGrid((1, 8, 8), (0.5, 1.5, 1.5))
    torch.testing.assert_close(graph(clips(2)), clstm[0](clips(2)), atol=1e-5, rtol=1e-5)


def test_without_the_runtime_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OptionsError, match=r"pip install chronolens\[onnx\]"):
        OnnxNetwork(b"", [])


def test_a_broken_graph_is_refused():
    with pytest.raises(WeightsError):
        OnnxNetwork(b"no graph", [])


def test_cuda_is_asked_for_in_full_precision_and_named_only_when_it_is_there(monkeypatch):
    import onnxruntime

    asked = []

    class Session:
        def __init__(self, _graph, _options, providers):
            asked.extend(providers)

        def get_providers(self):
            return [onnx_network.CPU]  # it fell back

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [onnx_network.CUDA, onnx_network.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert OnnxNetwork(b"", []).provider == "CPUExecutionProvider"
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0", "device_id": "0"}), "CPUExecutionProvider"]
