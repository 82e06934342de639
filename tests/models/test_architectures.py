"""I3D and C-LSTM: published sizes, shapes, and values against independent arithmetic."""

import pytest
import torch
import torch.nn.functional as F

from chronolens.clips import CellGrid
from chronolens.errors import OptionsError, UnknownModelError
from chronolens.models import build_model, list_models
from chronolens.models.blocks import pad_same, same_padding
from chronolens.models.clstm import CLSTM, CLSTMConfig, ConvLSTMCell
from chronolens.models.i3d import I3D, I3DConfig


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [("i3d", 174, 12_465_614), ("i3d", 400, 12_697_264), ("clstm", 174, 1_324_014)],
)
def test_parameter_counts_are_the_published_ones(name, classes, count):
    assert parameters(build_model(name, num_classes=classes)) == count


def test_strides_do_not_change_the_count_and_half_size_keeps_the_head():
    assert parameters(build_model("i3d", temporal_strides=(2, 2, 2))) == 12_465_614
    assert parameters(build_model("clstm", height=112, width=112, strides=(2, 2, 1))) == 1_324_014


def test_the_authors_strides_are_the_default():
    assert I3DConfig().temporal_strides == (1, 1, 2)


@pytest.mark.parametrize(
    ("strides", "last", "size", "shape"),
    [
        ((1, 1, 2), 2, 64, (8, 2, 2)),
        ((2, 2, 2), 2, 64, (2, 2, 2)),
        ((2, 1, 1), 2, 64, (8, 2, 2)),
        ((2, 1, 1), 1, 112, (8, 7, 7)),
    ],
)
def test_map_size_follows_the_strides(strides, last, size, shape):
    model = I3D(I3DConfig(4, temporal_strides=strides, last_stride=last)).eval()
    with torch.no_grad():
        assert model.features(torch.zeros(1, 3, 16, size, size)).shape == (1, 1024, *shape)


@pytest.mark.parametrize("head", ["global", "sliding"])
@pytest.mark.parametrize(("steps", "side"), [(8, 7), (4, 8), (1, 3)])
def test_linear_head_predicts_the_logits(head, steps, side):
    torch.manual_seed(0)
    model = I3D(I3DConfig(5, head=head)).eval()
    features = torch.randn(2, 1024, steps, side, side)
    weights, share = model.linear_head("Mixed_5c", steps, side, side)
    expected = torch.einsum("kc,ncthw,thw->nk", weights, features, share) + model.logits.conv3d.bias
    assert share.sum().item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(model.classify(features), expected, atol=1e-5, rtol=1e-4)


def test_sliding_head_weighs_steps_one_two_two_one():
    _, share = I3D(I3DConfig(2, head="sliding")).linear_head("Mixed_5c", 4, 7, 7)
    per_step = share.sum(dim=(1, 2))
    torch.testing.assert_close(per_step, torch.tensor([1.0, 2.0, 2.0, 1.0]) / 6)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"), [(224, 7, 2, (2, 3)), (16, 7, 1, (3, 3)), (112, 3, 2, (0, 1)), (5, 2, 2, (0, 1))]
)
def test_same_padding_puts_the_odd_pixel_after(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


def test_pad_same_pads_time_rows_columns_in_order():
    padded = pad_same(torch.ones(1, 1, 4, 5, 6), (3, 2, 1), (1, 2, 1))
    assert padded.shape == (1, 1, 6, 6, 6)
    assert padded[0, 0, 0].abs().sum() == 0  # one step before
    assert padded[0, 0, 1, -1].abs().sum() == 0  # one row after


def test_the_cells_of_a_map_lie_where_the_padding_puts_them():
    grid = I3D(I3DConfig(2, temporal_strides=(2, 1, 1), last_stride=1)).cell_grid("Mixed_5c", 16, 112, 112)
    # odd padding after, at strides 2, 4 and 8: 0.5 + 1 + 2 + 4 + 8 = 15.5 instead of 8; in time 0.5 + 1 instead of 1
    assert grid == CellGrid((2, 16, 16), (1.5, 15.5, 15.5))
    assert I3D(I3DConfig(2)).cell_grid("Mixed_5c", 16, 224, 224) == CellGrid((2, 32, 32), (1.0, 23.5, 23.5))
    clstm = CLSTM(CLSTMConfig(2, height=112, width=112, strides=(2, 2, 1)))
    assert clstm.cell_grid("clstm.cell0", 16, 112, 112) == CellGrid((1, 2, 2), (0.5, 0.5, 0.5))
    assert clstm.cell_grid("clstm.cell2", 16, 112, 112) == CellGrid((1, 16, 16), (0.5, 5.5, 5.5))


@pytest.mark.parametrize(("layer", "cell"), [("Conv3d_1a_7x7", 40), ("MaxPool3d_3a_3x3", 10), ("Mixed_3b", 11), ("MaxPool3d_4a_3x3", 5)])
def test_the_grid_is_the_centre_of_mass_of_what_a_cell_sees(layer, cell, monkeypatch):
    monkeypatch.setattr(F, "max_pool3d", lambda x, kernel, stride: F.avg_pool3d(x, kernel, stride))  # evenly, so that mass is defined
    model = I3D(I3DConfig(2, temporal_strides=(2, 1, 1), last_stride=1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    clip = torch.ones(1, 3, 4, 160, 160, requires_grad=True)
    x = clip
    for name, module in model.named_children():
        x = module(x)
        if name == layer:
            break
    (slope,) = torch.autograd.grad(x[0, :, :, cell, cell].sum(), clip)
    rows = slope.sum((0, 1, 2, 4)).double()
    centre = float((rows * (torch.arange(160) + 0.5)).sum() / rows.sum())
    grid = model.cell_grid(layer, 4, 160, 160)
    assert centre == pytest.approx(grid.first[1] + cell * grid.stride[1], abs=0.01)


def test_lstm_cell_equals_the_gates_written_out():
    torch.manual_seed(1)
    cell = ConvLSTMCell(3, 4, stride=2)
    x = torch.randn(2, 5, 3, 8, 8)
    hidden = memory = torch.zeros(2, 4, 4, 4)
    expected = []
    for t in range(5):

        def gate(name, frame=x[:, t], state=hidden):
            drive = F.conv2d(frame, getattr(cell, f"Wx{name}").weight, getattr(cell, f"Wx{name}").bias, 2, 2)
            return drive + F.conv2d(state, getattr(cell, f"Wh{name}").weight, None, 1, 2)

        memory = torch.sigmoid(gate("f")) * memory + torch.sigmoid(gate("i")) * torch.tanh(gate("c"))
        hidden = torch.sigmoid(gate("o")) * torch.tanh(memory)
        expected.append(hidden)
    torch.testing.assert_close(cell(x), torch.stack(expected, 1))


def test_clstm_feature_sizes_are_those_of_the_paper():
    model = CLSTM(CLSTMConfig(3))
    assert model.endFC.in_features == 16 * 32 * 3 * 3 == 4608
    sizes = []
    for name, module in model.clstm.named_children():
        if name.startswith("cell"):
            module.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[-2:])))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 16, 224, 224))
    assert sizes == [(112, 112), (28, 28), (7, 7)]


def test_clstm_has_one_batch_norm():
    norms = [name for name, module in build_model("clstm").named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms == ["clstm.bn"]


@pytest.mark.parametrize("name", ["i3d", "clstm"])
def test_a_batch_of_two_is_two_of_one(name):
    torch.manual_seed(2)
    size = {"height": 32, "width": 32, "frames": 8, "strides": (2, 2)} if name == "clstm" else {}
    model = build_model(name, num_classes=3, **size).eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        together = model(clips)
        alone = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["i3d_kth", "clstm_kth"])
def test_kth_variants_take_32_frames_of_120_by_160(name):
    model = build_model(name).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 120, 160)).shape == (1, 6)


def test_every_default_map_has_at_least_7_by_7_cells():
    for name, frames, size in (
        ("i3d", 16, (224, 224)),
        ("i3d_kth", 32, (120, 160)),
        ("clstm", 16, (224, 224)),
        ("clstm_kth", 32, (120, 160)),
    ):
        model = build_model(name)
        grid = model.cell_grid(model.default_layers[0], frames, *size)
        cells = [-(-size[axis] // int(grid.stride[axis + 1])) for axis in range(2)]
        assert min(cells) >= 7, name


def test_kth_clstm_has_two_cells():
    assert [n for n, _ in build_model("clstm_kth").clstm.named_children() if n.startswith("cell")] == ["cell0", "cell1"]


def test_a_clip_too_small_for_the_cells_is_refused():
    with pytest.raises(OptionsError, match="32 x 32"):
        build_model("clstm", height=32, width=32)


def test_unknown_names_list_what_exists():
    with pytest.raises(UnknownModelError, match="clstm") as caught:
        build_model("i3e")
    assert "i3d" in caught.value.allowed
    with pytest.raises(OptionsError) as caught:
        build_model("i3d", depth=50)
    assert caught.value.pointer == "/depth"
    assert list_models() == [
        "c3d",
        "clstm",
        "clstm_kth",
        "i3d",
        "i3d_kth",
        "slowfast",
        "slowfast_r18",
        "slowfast_r50",
        "slowfast_r50_4x16",
        "tsm",
        "tsm_r18",
        "tsm_r50",
    ]
