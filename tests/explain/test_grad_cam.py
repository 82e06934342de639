"""Grad-CAM by pencil, closed form against autograd, hooks and errors."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from chronolens.errors import NonFiniteResultError, OptionsError, UnknownClassError, UnknownLayerError
from chronolens.explain.capture import capture, valid_layers
from chronolens.explain.grad_cam import grad_cam, heat_maps, scale
from chronolens.explain.protocol import Passes

HEAD = [[2.0, 1.0], [0.0, 3.0]]
CLIP = torch.tensor([[1.0, 3.0], [0.0, 2.0]]).reshape(1, 1, 2, 1, 2)  # two frames of one row and two columns


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def state(model):
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], [p.grad for p in model.parameters()]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("weights", ["per_frame", "per_clip"])
def test_by_pencil(pencil, closed, weights):
    # Channels (x, -x), mean of x = 1.5. Logits: 2 * 1.5 - 1.5 = 1.5 and 3 * -1.5 = -4.5.
    # Class 0: the gradient is (2, 1) / 4 everywhere, the map ReLU(2x/4 - x/4) = x / 4.
    model = pencil(HEAD, closed=closed)
    found = heat_maps(model, CLIP, 0, weights=weights)
    assert found.logits.tolist() == [[1.5, -4.5]]
    assert found.maps["conv"].tolist() == [[[[0.25, 0.75]], [[0.0, 0.5]]]]
    assert found.passes == (Passes(1) if closed else Passes(1, 1))
    assert torch.allclose(grad_cam(model, CLIP, 0, weights=weights), torch.tensor([[[[1 / 3, 1.0]], [[0.0, 2 / 3]]]]))
    # Class 1: the gradient is (0, 3) / 4, the map ReLU(-3x/4) = 0: it stays finite.
    assert grad_cam(model, CLIP, 1, weights=weights).abs().max() == 0
    # Probability of class 0: the gradient is p0 p1 (2 - 0, 1 - 3) / 4, the map p0 p1 (2x + 2x) / 4 = p0 p1 x.
    p0 = 1 / (1 + math.exp(-6))
    found = heat_maps(model, CLIP, 0, weights=weights, of="probability")
    assert torch.allclose(found.maps["conv"], p0 * (1 - p0) * CLIP[0])


@pytest.mark.parametrize("closed", [True, False])
def test_the_two_weight_rules_differ_when_frames_weigh_differently(pencil, closed):
    # Frame 0 enters the logit with 1/4, frame 1 with 3/4. Class 0 sees 2x - x = x.
    # Per frame: x times 1/8 and 3/8 (two columns). Per clip: x times the mean, 1/4.
    model = pencil(HEAD, [0.25, 0.75], closed=closed)
    assert heat_maps(model, CLIP, 0).maps["conv"].flatten().tolist() == [0.125, 0.375, 0.0, 0.75]
    assert heat_maps(model, CLIP, 0, weights="per_clip").maps["conv"].flatten().tolist() == [0.25, 0.75, 0.0, 0.5]


def small_i3d(head, strides):
    i3d = pytest.importorskip("chronolens.models.i3d")
    torch.manual_seed(0)
    model = i3d.I3D(i3d.I3DConfig(num_classes=5, temporal_strides=strides, head=head, last_stride=1))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 16, 32, 32) * 2 - 1)  # one batch sets the running statistics: activations of size 1
        model.logits.conv3d.weight.normal_(0.0005, 0.001)
        model.logits.conv3d.bias.zero_()
    return model


@pytest.mark.parametrize("head", ["global", "sliding"])
@pytest.mark.parametrize("strides", [(2, 2, 2), (2, 1, 1)])
def test_closed_form_equals_autograd_for_i3d(head, strides, monkeypatch):
    model = small_i3d(head, strides)
    clip = torch.rand(2, 3, 16, 32, 32) * 2 - 1
    cases = [(weights, of) for weights in ("per_frame", "per_clip") for of in ("logit", "probability")]
    closed = {case: heat_maps(model, clip, None, weights=case[0], of=case[1]) for case in cases}
    monkeypatch.setattr(type(model), "linear_head", lambda *_: None)
    for case in cases:
        general = heat_maps(model, clip, None, weights=case[0], of=case[1])
        assert (closed[case].passes, general.passes) == (Passes(2), Passes(2, 2))
        expected = general.maps["Mixed_5c"]
        assert expected.max() > 0
        assert torch.allclose(closed[case].maps["Mixed_5c"], expected, atol=2e-6 * float(expected.max()), rtol=1e-4)
    rules = [closed["per_frame", "logit"].maps["Mixed_5c"], closed["per_clip", "logit"].maps["Mixed_5c"]]
    uneven = head == "sliding" and rules[0].shape[1] > 2  # inner steps are pooled twice
    assert torch.allclose(*rules) is not uneven


def test_sequence_layers_are_declared_and_batches_do_not_mix():
    clstm = pytest.importorskip("chronolens.models.clstm")
    torch.manual_seed(0)
    model = clstm.CLSTM(clstm.CLSTMConfig(num_classes=4, frames=4, height=32, width=32, hidden=4, strides=(2, 1)))
    model.time_first_layers = frozenset({"clstm.cell0", "clstm.cell1"})
    clip = torch.randn(2, 3, 4, 32, 32)
    both = heat_maps(model, clip, torch.tensor([0, 3]), layers=("default", "clstm.cell0"))
    assert {name: tuple(maps.shape) for name, maps in both.maps.items()} == {"clstm.cell1": (2, 4, 8, 8), "clstm.cell0": (2, 4, 16, 16)}
    assert both.passes == Passes(2, 2)
    for row, target in enumerate((0, 3)):
        one = heat_maps(model, clip[row : row + 1], target, layers=("default", "clstm.cell0"))
        for name, maps in one.maps.items():
            assert torch.allclose(maps[0], both.maps[name][row], atol=1e-7)
    # By definition, for one clip: w_kt is the mean gradient over h, w of the cell's (N, T, C, H, W) output.
    model.eval()
    with capture(model, ["clstm.cell1"], gradients=True) as taps:
        logits = model(clip[:1])
        tap = taps["clstm.cell1"]
    (slope,) = torch.autograd.grad(logits[0, 0], tap)
    expected = torch.relu((slope.mean(dim=(3, 4), keepdim=True) * tap).sum(dim=2))
    assert torch.allclose(both.maps["clstm.cell1"][:1], expected, atol=1e-7)


def test_general_path_reads_the_prediction_from_its_own_forward(pencil):
    model = pencil(HEAD)
    found = heat_maps(model, torch.cat([CLIP, -CLIP]), None, layers=("act", "conv"))
    assert found.target.tolist() == [0, 1]  # -x gives logits -1.5 and 4.5
    assert list(found.maps) == ["act", "conv"]
    assert torch.equal(found.maps["act"], found.maps["conv"])
    assert torch.allclose(found.maps["conv"][1], heat_maps(model, -CLIP, 1).maps["conv"][0])


@pytest.mark.parametrize("closed", [True, False])
def test_model_is_left_as_it_was(pencil, closed):
    model = pencil(HEAD, closed=closed)
    model.act.eval()
    before = state(model)
    grad_cam(model, CLIP, 0)
    with pytest.raises(UnknownClassError) as caught:
        grad_cam(model, CLIP, 2)
    assert (caught.value.limit, caught.value.observed) == (1, 2)
    with pytest.raises(UnknownClassError):
        grad_cam(model, CLIP, -1)
    model.fails = True
    with pytest.raises(RuntimeError, match="on purpose"):
        grad_cam(model, CLIP, 0)
    with pytest.raises(RuntimeError, match="on purpose"):
        valid_layers(model, (1, 2, 1, 2))
    assert hooks(model) == 0
    assert state(model) == before
    assert all(grad is None for grad in before[2])


def test_unknown_and_unusable_layers(pencil):
    model = pencil(HEAD)
    with pytest.raises(UnknownLayerError) as caught:
        grad_cam(model, CLIP, 0, layer="konv")
    assert caught.value.allowed[0] == "conv"
    assert "Nearest: conv" in caught.value.detail
    with pytest.raises(UnknownLayerError, match="2 dimensions"):
        grad_cam(model, CLIP, 0, layer="head")
    model.unused = torch.nn.Identity()
    with pytest.raises(UnknownLayerError, match="0 times"):
        grad_cam(model, CLIP, 0, layer="unused")
    assert valid_layers(model, (1, 2, 1, 2)) == ["conv", "act"]
    assert hooks(model) == 0


@pytest.mark.parametrize("wrong", [{"weights": "per_pixel"}, {"of": "loss"}, {"layers": ()}])
def test_wrong_options(pencil, wrong):
    with pytest.raises(OptionsError) as caught:
        heat_maps(pencil(HEAD), CLIP, 0, **wrong)
    assert caught.value.pointer == f"/gradcam/{next(iter(wrong))}"


@pytest.mark.parametrize("closed", [True, False])
def test_non_finite_network(pencil, closed):
    with pytest.raises(NonFiniteResultError):
        grad_cam(pencil(HEAD, closed=closed), CLIP * math.inf, 0)


def test_scale_is_per_clip_and_finite():
    maps = torch.tensor([[1.0, 4.0], [0.0, 0.0], [3.0, 3.0], [1e-45, 0.0]]).reshape(4, 2, 1, 1)
    assert scale(maps).flatten(1).tolist() == [[0.25, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("closed", [True, False])
def test_requests_of_other_threads_pass_by(pencil, closed):
    model = pencil(HEAD, closed=closed).eval().requires_grad_(False)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda factor: heat_maps(model, CLIP * factor, 0, layers=("conv",)), range(1, 65)))
    for factor, one in enumerate(found, start=1):
        assert one.maps["conv"].flatten().tolist() == [0.25 * factor, 0.75 * factor, 0.0, 0.5 * factor]
    with capture(model, ["conv"]) as taps, ThreadPoolExecutor(1) as pool:
        pool.submit(model, CLIP).result()
        with pytest.raises(UnknownLayerError, match="0 times"):
            taps["conv"]


@pytest.mark.parametrize("closed", [True, False])
def test_works_inside_inference_mode(pencil, closed):
    model = pencil(HEAD, closed=closed)
    with torch.inference_mode():
        found = grad_cam(model, CLIP.clone(), 0)
    assert found.flatten()[1] == 1
