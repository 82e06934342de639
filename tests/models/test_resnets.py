"""SlowFast, TSM and C3D: published parameter counts, what each pathway sees, heads, stages and where their cells lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chronolens.errors import OptionsError
from chronolens.explain.capture import capture, valid_layers
from chronolens.explain.grad_cam import heat_maps, resolve_layers, scale
from chronolens.explain.protocol import Passes
from chronolens.models import build_model
from chronolens.models.base import VideoNetwork
from chronolens.models.resnet import shift_in_time
from chronolens.models.slowfast import SlowFast, slow_frame_indices

SMALL: dict[str, dict[str, object]] = {
    "i3d": {},
    "clstm": {"frames": 16, "height": 64, "width": 64},
    "slowfast_r18": {"width": 16, "beta": 4},
    "tsm_r18": {"width": 16},
    "c3d": {"frames": 16, "height": 64, "width": 64, "hidden": 8},
}
CASES = [(weights, of) for weights in ("per_frame", "per_clip") for of in ("logit", "probability")]


def small(name: str, **config: object) -> VideoNetwork:
    """A narrow network whose BatchNorm has the statistics of random clips, so that its activations are of size 1."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=5, **config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 16, 64, 64) * 2 - 1)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("slowfast_r50", {"num_classes": 400}, 34_566_488),
        ("slowfast_r50", {"num_classes": 174}, 34_045_558),
        ("slowfast_r50", {"num_classes": 400, "fusion_norm": False}, 34_565_560),  # MMAction2
        ("tsm_r50", {"num_classes": 174}, 23_864_558),
        ("tsm_r50", {"num_classes": 400}, 24_327_632),
        ("c3d", {"num_classes": 101}, 78_409_573),  # by hand: eight convolutions and 8192 x 4096, 4096 x 4096, 4096 x 101, with biases
    ],
)
def test_published_parameter_counts(name: str, config: dict[str, object], count: int) -> None:
    with torch.device("meta"):
        model = build_model(name, **config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_four_by_sixteen_differs_only_in_its_lateral_kernels() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in build_model(name).parameters()) for name in ("slowfast_r50", "slowfast_r50_4x16")]
    # kernels of 5 instead of 7 at lateral connections of 8, 32, 64 and 128 channels into twice as many
    assert counts[0] - counts[1] == sum(2 * channels * 2 * channels for channels in (8, 32, 64, 128))


@pytest.mark.parametrize(
    ("frames", "alpha", "rule", "expected"),
    [
        (32, 4, "linspace", [0, 4, 8, 13, 17, 22, 26, 31]),  # PySlowFast 8 x 8
        (32, 8, "linspace", [0, 10, 20, 31]),
        (32, 4, "stride", [0, 4, 8, 12, 16, 20, 24, 28]),  # MMAction2
        (16, 4, "linspace", [0, 5, 10, 15]),
        (4, 4, "linspace", [0]),
    ],
)
def test_slow_frames_of_each_dialect(frames: int, alpha: int, rule: str, expected: list[int]) -> None:
    assert slow_frame_indices(frames, alpha, rule) == expected  # type: ignore[arg-type]


def test_linspace_is_that_of_pytorch() -> None:
    for alpha in (2, 4, 8):
        for frames in range(alpha, 520, alpha):
            assert slow_frame_indices(frames, alpha, "linspace") == torch.linspace(0, frames - 1, frames // alpha).long().tolist()


def test_a_clip_that_alpha_does_not_divide_is_refused() -> None:
    with pytest.raises(OptionsError, match="30 frames cannot be divided by alpha 4"):
        slow_frame_indices(30, 4, "linspace")


@pytest.mark.parametrize(
    ("name", "config", "pointer"),
    [
        ("slowfast", {"alpha": -4}, "/alpha"),
        ("slowfast", {"alpha": True}, "/alpha"),
        ("slowfast", {"alpha": 4.0}, "/alpha"),
        ("slowfast", {"head": "softmax-of-mean"}, "/head"),
        ("slowfast", {"slow_frames": "every"}, "/slow_frames"),
        ("slowfast", {"fusion_kernel": 4}, "/fusion_kernel"),
        ("slowfast", {"width": 60}, "/beta"),
        ("slowfast", {"last_stride": 0}, "/last_stride"),
        ("slowfast", {"fusion_norm": 1}, "/fusion_norm"),
        ("tsm", {"shift": 1}, "/shift"),
        ("tsm", {"num_classes": 0}, "/num_classes"),
        ("tsm", {"depth": 34}, "/depth"),
    ],
)
def test_impossible_options_are_refused(name: str, config: dict[str, object], pointer: str) -> None:
    with pytest.raises(OptionsError) as caught:
        build_model(name, **config)
    assert caught.value.pointer == pointer


def test_the_slow_pathway_sees_its_frames_only() -> None:
    model = small("slowfast_r18", width=16, beta=4)
    clip = torch.rand(1, 3, 16, 64, 64)
    with torch.no_grad(), capture(model, ["s1.pathway0_stem", "s1.pathway1_stem"]) as taps:
        model(clip)
        slow, fast = taps["s1.pathway0_stem"], taps["s1.pathway1_stem"]
    chosen = [0, 5, 10, 15]
    assert (slow.shape[2], fast.shape[2]) == (4, 16)
    changed = clip.clone()
    changed[:, :, [1, 2, 3, 7, 12]] = 0
    with torch.no_grad(), capture(model, ["s1.pathway0_stem", "s1.pathway1_stem"]) as taps:
        model(changed)
        assert torch.equal(taps["s1.pathway0_stem"], slow)
        assert not torch.equal(taps["s1.pathway1_stem"], fast)
    with torch.no_grad(), capture(model, ["s1.pathway0_stem"]) as taps:
        model(clip[:, :, chosen].repeat_interleave(4, dim=2))  # linspace picks 0, 5, 10, 15: one of each group of four
        assert torch.allclose(taps["s1.pathway0_stem"], slow, atol=1e-6)


def test_shift_takes_the_first_channels_from_the_frame_after() -> None:
    x = torch.arange(1.0, 4.0).view(1, 1, 3, 1, 1).repeat(1, 8, 1, 1, 1)
    moved = shift_in_time(x, 8)[0, :, :, 0, 0].tolist()
    assert moved == [[2.0, 3.0, 0.0], [0.0, 1.0, 2.0], *[[1.0, 2.0, 3.0]] * 6]
    assert shift_in_time(x[:, :4], 8) is not None
    assert torch.equal(shift_in_time(x[:, :4], 8), x[:, :4])  # four channels have no eighth


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("tsm_r18", {"width": 16, "last_stride": 1}),
        ("tsm_r50", {"width": 8}),
        ("slowfast_r18", {"width": 16, "beta": 4, "last_stride": 1}),
        ("slowfast_r18", {"width": 16, "beta": 4, "last_stride": 1, "slow_first": False, "head": "global"}),
        ("slowfast_r50", {"width": 16, "fusion_norm": False, "slow_frames": "stride"}),
    ],
)
def test_closed_form_equals_autograd(name: str, config: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(name, **config)
    clip = torch.rand(2, 3, 16, 64, 64) * 2 - 1
    closed = {case: heat_maps(model, clip, None, weights=case[0], of=case[1]) for case in CASES}  # type: ignore[arg-type]
    monkeypatch.setattr(type(model), "linear_head", lambda *_: None)
    for weights, of in CASES:
        general = heat_maps(model, clip, None, weights=weights, of=of)  # type: ignore[arg-type]
        found = closed[weights, of]
        assert (found.passes, general.passes) == (Passes(2), Passes(2, 2))
        assert list(found.maps) == list(model.default_layers)
        for layer, expected in general.maps.items():
            assert float(expected.max()) > 0
            assert torch.allclose(found.maps[layer], expected, atol=2e-6 * float(expected.max()), rtol=1e-3)


@pytest.mark.parametrize("head", ["softmax_of_mean", "mean_of_softmax"])
def test_heads_with_several_places(head: str) -> None:
    model = small("slowfast_r18", width=16, beta=4, head=head)
    assert isinstance(model, SlowFast)
    slow, fast = torch.rand(2, 128, 4, 8, 9), torch.rand(2, 32, 16, 8, 9)
    with torch.no_grad():
        logits = model.classify(slow, fast)
    windows = []
    for top in range(2):
        for left in range(3):
            parts = [part[:, :, :, top : top + 7, left : left + 7].mean(dim=(2, 3, 4)) for part in (slow, fast)]
            windows.append(model.head(torch.cat(parts, dim=1)).detach())
    places = torch.stack(windows)
    if head == "mean_of_softmax":
        expected = places.softmax(dim=2).mean(dim=0)
        assert model.linear_head(model.default_layers[0], 4, 8, 9) is None
    else:
        expected = places.mean(dim=0).softmax(dim=1)
        heads = [model.linear_head(layer, *part.shape[2:]) for layer, part in zip(model.default_layers, (slow, fast), strict=True)]
        linear = sum(
            torch.einsum("ck,nkthw,thw->nc", matrix, part, share)
            for (matrix, share), part in zip(heads, (slow, fast), strict=True)  # type: ignore[misc]
        )
        assert torch.allclose(linear + model.head.projection.bias, logits, atol=1e-5)
    assert torch.allclose(logits.softmax(dim=1), expected, atol=1e-6)
    others = places.mean(dim=0).softmax(dim=1) if head == "mean_of_softmax" else places.softmax(dim=2).mean(dim=0)
    assert float((others - expected).abs().max()) > 1e-7


def centre_of_gradient(model: VideoNetwork, layer: str, place: tuple[int, int, int], size: tuple[int, int, int]) -> Tensor:
    """Return the middle (T, H, W) of the input that one cell depends on, found by differentiating; NaN on axes it reaches the rim of."""
    clip = torch.zeros(1, 3, *size, requires_grad=True)
    with capture(model, [layer]) as taps:
        model(clip)
        taps[layer][0, :, place[0], place[1], place[2]].sum().backward()
    assert clip.grad is not None
    seen = clip.grad[0].abs().sum(dim=0) > 0
    middles = []
    for axis in range(3):
        rest = [other for other in range(3) if other != axis]
        touched = torch.nonzero(seen.amax(dim=rest)).flatten()
        first, last = int(touched.min()), int(touched.max()) + 1
        middles.append((first + last) / 2 if first > 0 and last < size[axis] else float("nan"))
    return torch.tensor(middles)


def linear(model: VideoNetwork) -> VideoNetwork:
    """Make every window count: positive weights, no statistics, so that what a cell depends on is its whole receptive field."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().add_(0.01)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "layer", "place"),
    [
        ("tsm_r18", "s1.conv", (5, 20, 30)),
        ("tsm_r18", "s1", (5, 8, 12)),
        ("tsm_r18", "s3.res0.branch2.a", (5, 5, 8)),
        ("tsm_r18", "s2", (5, 12, 16)),
        ("slowfast_r50", "s3.pathway1_res0.branch2.a", (5, 8, 12)),
        ("slowfast_r50", "s3.pathway1_res0", (5, 5, 8)),
        ("slowfast_r50", "s2.pathway0_res2", (2, 9, 12)),
        ("c3d", "conv2a", (5, 20, 30)),
        ("c3d", "conv3b", (3, 10, 12)),
    ],
)
def test_cells_lie_where_the_gradient_says(name: str, layer: str, place: tuple[int, int, int]) -> None:
    size = (16, 96, 128)
    extra: dict[str, object] = {"height": 96, "width": 128, "hidden": 4} if name == "c3d" else {"width": 16}
    model = linear(build_model(name, num_classes=2, **extra))
    grid = model.cell_grid(layer, *size)
    found = centre_of_gradient(model, layer, place, size)
    assert not torch.isnan(found[1:]).any()
    for axis in (1, 2):
        # max-pooling of a constant picture lets the gradient through one of its places only, so half a stride of doubt
        assert float(found[axis]) == pytest.approx(grid.first[axis] + place[axis] * grid.stride[axis], abs=grid.stride[axis] / 2 + 0.5)


@pytest.mark.parametrize(
    ("name", "config"),
    [("tsm_r18", {"width": 16}), ("tsm_r50", {"width": 8}), ("slowfast_r18", {"width": 16}), ("slowfast_r50", {"width": 16})],
)
def test_every_layer_has_a_grid_that_covers_the_clip(name: str, config: dict[str, object]) -> None:
    model = build_model(name, num_classes=2, **config).eval()
    size = (16, 64, 96)
    layers = valid_layers(model, (3, *size))
    layers = layers[: max(layers.index(layer) for layer in model.default_layers) + 1]
    assert {layer for names in model.stages.values() for layer in names} <= set(layers)
    with torch.no_grad(), capture(model, layers) as taps:
        model(torch.zeros(1, 3, *size))
        shapes = {layer: tuple(taps[layer].shape[2:]) for layer in layers}
    for layer, (steps, rows, columns) in shapes.items():
        grid = model.cell_grid(layer, *size)
        assert (rows, columns) == tuple(-(-size[axis] // int(grid.stride[axis])) for axis in (1, 2)), layer
        assert steps == (size[0] // int(grid.stride[0]) if grid.frames is None else len(grid.frames)), layer


def test_slow_steps_are_mapped_to_the_frames_of_their_pathway() -> None:
    model = build_model("slowfast_r50", num_classes=2, width=16)
    slow, fast = (model.cell_grid(layer, 32, 224, 224) for layer in model.default_layers)
    assert slow.frames == (0, 4, 8, 13, 17, 22, 26, 31)
    assert fast.frames is None
    assert slow.steps_shown(8, 32).tolist()[:12] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]  # frame 2 lies between 0 and 4: the earlier one
    assert slow.stride == (4, 32, 32)
    assert [model.pathway_of(name) for name in ("s5.pathway0_res2", "s5.pathway1_res2.branch2", "s2_fuse", "head")] == [
        "slow",
        "fast",
        "slow",
        None,
    ]


@pytest.mark.parametrize("name", ["i3d", "clstm", "slowfast_r18", "tsm_r18", "c3d"])
def test_all_stages_in_one_forward_equal_each_alone(name: str) -> None:
    torch.manual_seed(1)
    model = build_model(name, num_classes=3, **SMALL[name]).eval()
    clip = torch.rand(1, 3, 16, 64, 64) * 2 - 1
    together = heat_maps(model, clip, 1, layers=("all",))
    assert list(together.maps) == [layer for names in model.stages.values() for layer in names]
    assert together.passes == Passes(1, 1)
    for stage, layers in model.stages.items():
        alone = heat_maps(model, clip, 1, layers=(stage,))
        assert list(alone.maps) == list(layers)
        for layer in layers:
            assert torch.allclose(scale(alone.maps[layer]), scale(together.maps[layer]), atol=1e-5)


def test_names_of_layers() -> None:
    model = build_model("slowfast_r18", width=16, beta=4)
    assert resolve_layers(model, ["stage2", "default", "s5.pathway0_res1", "head"]) == [
        "s2.pathway0_res1",
        "s2.pathway1_res1",
        "s5.pathway0_res1",
        "s5.pathway1_res1",
        "head",
    ]
    assert len(resolve_layers(model, ["all"])) == 10
