"""Dialects: upstream's names land where they belong, and a file that is not whole says what is wrong with it."""

import math

import pytest
import torch
from tests.importing.foreign import SMALL, ours, theirs

from chronolens.errors import OptionsError, WeightsError
from chronolens.importing.dialects import DIALECTS, convert, detect
from chronolens.importing.translation import network_shapes
from chronolens.models import build_model

# names as they stand in each code base: written by hand from it, not from ours
PLACES = {
    "pytorch-i3d": {
        "Conv3d_1a_7x7.conv3d.weight": "Conv3d_1a_7x7.conv3d.weight",
        "Mixed_4f.b1b.bn.running_var": "Mixed_4f.b1b.bn.running_var",
        "logits.conv3d.bias": "logits.conv3d.bias",
    },
    "authors-i3d": {"module.Mixed_5c.b3b.conv3d.weight": "Mixed_5c.b3b.conv3d.weight"},
    "authors-clstm": {
        "module.clstm.cell0.Wxi.bias": "clstm.cell0.Wxi.bias",
        "module.clstm.cell2.Who.weight": "clstm.cell2.Who.weight",
        "module.clstm.bn.running_mean": "clstm.bn.running_mean",
        "module.endFC.weight": "endFC.weight",
    },
    "pyslowfast": {
        "s1.pathway1_stem.bn.weight": "s1.pathway1_stem.bn.weight",
        "s3.pathway0_res1.branch2.a_bn.bias": "s3.pathway0_res1.branch2.a_bn.bias",
        "head.projection.weight": "head.projection.weight",
    },
    "pyslowfast-caffe2": {
        "conv1_w": "s1.pathway0_stem.conv.weight",
        "t_conv1_w": "s1.pathway1_stem.conv.weight",
        "res_conv1_bn_s": "s1.pathway0_stem.bn.weight",
        "t_res_conv1_bn_riv": "s1.pathway1_stem.bn.running_var",
        "t_pool1_subsample_w": "s1_fuse.conv_f2s.weight",
        "t_pool1_subsample_bn_rm": "s1_fuse.bn.running_mean",
        "t_res2_2_branch2c_bn_subsample_w": "s2_fuse.conv_f2s.weight",
        "t_res4_5_branch2c_bn_subsample_bn_b": "s4_fuse.bn.bias",
        "res2_0_branch1_w": "s2.pathway0_res0.branch1.weight",
        "res2_0_branch1_bn_b": "s2.pathway0_res0.branch1_bn.bias",
        "res4_4_branch2a_w": "s4.pathway0_res4.branch2.a.weight",
        "t_res5_1_branch2c_bn_s": "s5.pathway1_res1.branch2.c_bn.weight",
        "pred_w": "head.projection.weight",
        "pred_b": "head.projection.bias",
    },
    "pytorchvideo": {
        "blocks.0.multipathway_blocks.1.conv.weight": "s1.pathway1_stem.conv.weight",
        "blocks.0.multipathway_blocks.0.norm.running_mean": "s1.pathway0_stem.bn.running_mean",
        "blocks.0.multipathway_fusion.conv_fast_to_slow.weight": "s1_fuse.conv_f2s.weight",
        "blocks.3.multipathway_fusion.norm.bias": "s4_fuse.bn.bias",
        "blocks.2.multipathway_blocks.1.res_blocks.0.branch1_conv.weight": "s3.pathway1_res0.branch1.weight",
        "blocks.2.multipathway_blocks.0.res_blocks.0.branch1_norm.weight": "s3.pathway0_res0.branch1_bn.weight",
        "blocks.4.multipathway_blocks.0.res_blocks.1.branch2.conv_b.weight": "s5.pathway0_res1.branch2.b.weight",
        "blocks.4.multipathway_blocks.0.res_blocks.1.branch2.norm_a.weight": "s5.pathway0_res1.branch2.a_bn.weight",
        "blocks.6.proj.bias": "head.projection.bias",
    },
    "tsm": {
        "base_model.conv1.weight": "s1.conv.weight",
        "base_model.bn1.running_var": "s1.bn.running_var",
        "base_model.layer1.0.conv1.net.weight": "s2.res0.branch2.a.weight",
        "base_model.layer3.1.conv2.weight": "s4.res1.branch2.b.weight",
        "base_model.layer3.1.bn2.bias": "s4.res1.branch2.b_bn.bias",
        "base_model.layer4.0.downsample.0.weight": "s5.res0.branch1.weight",
        "base_model.layer4.0.downsample.1.weight": "s5.res0.branch1_bn.weight",
        "new_fc.weight": "head.weight",
    },
    "mmaction2-tsm": {
        "backbone.conv1.conv.weight": "s1.conv.weight",
        "backbone.conv1.bn.weight": "s1.bn.weight",
        "backbone.layer2.1.conv1.conv.net.weight": "s3.res1.branch2.a.weight",
        "backbone.layer2.1.conv1.bn.bias": "s3.res1.branch2.a_bn.bias",
        "backbone.layer2.1.conv2.conv.weight": "s3.res1.branch2.b.weight",
        "backbone.layer2.0.downsample.bn.running_mean": "s3.res0.branch1_bn.running_mean",
        "cls_head.fc_cls.bias": "head.bias",
    },
    "mmaction2-slowfast": {
        "backbone.fast_path.conv1.conv.weight": "s1.pathway1_stem.conv.weight",
        "backbone.slow_path.conv1.bn.bias": "s1.pathway0_stem.bn.bias",
        "backbone.slow_path.conv1_lateral.conv.weight": "s1_fuse.conv_f2s.weight",
        "backbone.slow_path.layer3_lateral.conv.weight": "s4_fuse.conv_f2s.weight",
        "backbone.fast_path.layer4.1.conv2.bn.weight": "s5.pathway1_res1.branch2.b_bn.weight",
        "backbone.slow_path.layer2.0.downsample.conv.weight": "s3.pathway0_res0.branch1.weight",
        "cls_head.fc_cls.weight": "head.projection.weight",
    },
}
CONFIGS = {
    "pytorch-i3d": {"num_classes": 5, "temporal_strides": (2, 2, 2), "head": "sliding"},
    "authors-i3d": {"num_classes": 5, "temporal_strides": (1, 1, 2), "head": "global"},
    "authors-clstm": {"num_classes": 5, "frames": 16, "height": 224, "width": 224, "hidden": 32, "strides": (2, 2, 2)},
    "tsm": {"num_classes": 5, "depth": 18, "width": 16, "shift": 8},
    "mmaction2-slowfast": {
        "num_classes": 5, "alpha": 4, "beta": 8, "depth": 18, "width": 16, "fusion_kernel": 7, "fusion_ratio": 2,
        "head": "global", "fusion_norm": False, "slow_first": False, "slow_frames": "stride",
    },
    "pyslowfast": {
        "num_classes": 5, "alpha": 4, "beta": 8, "depth": 18, "width": 16, "fusion_kernel": 7, "fusion_ratio": 2, "head": "mean_of_softmax",
    },
}  # fmt: skip


def test_every_dialect_is_tested():
    assert set(PLACES) == set(SMALL) == set(DIALECTS)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_tensor_lands_where_it_belongs(dialect):
    file = theirs(dialect)
    assert PLACES[dialect].keys() <= file.keys()
    assert detect(file) == dialect
    imported = convert(file)
    assert imported.dialect == dialect
    model = build_model(imported.architecture, **imported.config)
    model.load_state_dict(imported.state)
    for name, tensor in ours(dialect).state_dict().items():
        assert torch.equal(imported.state[name], tensor), name
    for there, here in PLACES[dialect].items():
        assert torch.equal(file[there].flatten(), imported.state[here].flatten()), there


@pytest.mark.parametrize("dialect", CONFIGS)
def test_the_options_come_from_the_shapes(dialect):
    assert convert(theirs(dialect)).config == CONFIGS[dialect]


def test_mmaction2_has_as_many_parameters_as_published():
    shapes = network_shapes("slowfast", {"num_classes": 400, "fusion_norm": False})
    assert sum(math.prod(shape) for name, shape in shapes.items() if name.endswith(("weight", "bias"))) == 34_565_560


def test_heads_and_preset_of_the_slowfast_dialects():
    heads = {name: convert(theirs(name)).config["head"] for name in ("pyslowfast-caffe2", "pytorchvideo")}
    assert heads == {"pyslowfast-caffe2": "mean_of_softmax", "pytorchvideo": "softmax_of_mean"}
    narrow = convert(theirs("pyslowfast", fusion_kernel=5, alpha=8)).config
    assert (narrow["alpha"], narrow["fusion_kernel"]) == (8, 5)
    assert convert(theirs("pyslowfast", fusion_kernel=5), config={"alpha": 4}).config["alpha"] == 4
    with pytest.raises(WeightsError, match="of 3 steps belong to no published network; give alpha"):
        convert(theirs("pyslowfast", fusion_kernel=3))


def test_two_dimensional_kernels_get_an_axis_of_time():
    file = theirs("tsm")
    assert file["base_model.conv1.weight"].shape == (16, 3, 7, 7)
    assert convert(file).state["s1.conv.weight"].shape == (16, 3, 1, 7, 7)


def test_a_classifier_kept_as_a_convolution():
    file = theirs("pyslowfast-caffe2")
    file["pred_w"] = file["pred_w"][:, :, None, None, None]
    assert convert(file).state["head.projection.weight"].shape == (5, 16 * 32 + 2 * 32)


def test_what_trainers_leave_behind_is_no_weight():
    file = theirs("pyslowfast-caffe2")
    file |= {"conv1_w_momentum": torch.ones(3), "lr": torch.ones(1), "model_iter": torch.ones(1)}
    assert convert(file).state.keys() == ours("pyslowfast-caffe2").state_dict().keys()
    with pytest.raises(WeightsError, match="1 left over: conv1_alr"):
        convert(file | {"conv1_alr_": torch.ones(1)})


@pytest.mark.parametrize("dialect", DIALECTS)
def test_counters_may_be_missing_and_the_prefix_present(dialect):
    file = {f"module.{name.removeprefix('module.')}": tensor for name, tensor in theirs(dialect).items() if "num_batches" not in name}
    state = convert(file, dialect).state
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert counters
    assert all(state[name].item() == 0 and state[name].dtype == torch.int64 for name in counters)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_missing_left_over_and_misshapen_are_named_as_in_the_file(dialect):
    file = theirs(dialect)
    names = [name for name in file if "num_batches" not in name]
    gone, bent = names[len(names) // 2], names[len(names) // 3]
    del file[gone]
    file[bent] = torch.zeros(1, 2, 3)
    file["stray.weight"] = torch.zeros(2)
    with pytest.raises(WeightsError) as refused:
        convert(file, dialect)
    text = refused.value.detail
    assert f"1 missing: {gone.removeprefix('module.')};" in text
    assert "1 left over: stray.weight;" in text
    assert f"1 of another shape: {bent.removeprefix('module.')} is (1, 2, 3), expected (" in text


def test_only_the_first_few_are_listed():
    file = theirs("pytorch-i3d")
    kept = {name: tensor for name, tensor in file.items() if not name.startswith("Mixed_5c")}
    with pytest.raises(WeightsError, match=r"no pytorch-i3d checkpoint of i3d: 30 missing: (Mixed_5c\S+, ){4}\S+ and 25 more$"):
        convert(kept)


def test_networks_that_are_not_ours():
    deep = {**theirs("tsm"), "base_model.layer1.2.conv1.net.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="a network with 3, 2, 2, 2 blocks in its stages is not known, only those of 18 and 50 layers"):
        convert(deep)
    unshifted = {name.replace(".net.", "."): tensor for name, tensor in theirs("tsm").items()}
    with pytest.raises(WeightsError, match=r"missing: base_model.layer1.0.conv1.net.weight.*left over: base_model.layer1.0.conv1.weight"):
        convert(unshifted)
    flow = theirs("pytorch-i3d")
    flow["Conv3d_1a_7x7.conv3d.weight"] = flow["Conv3d_1a_7x7.conv3d.weight"][:, :2]
    with pytest.raises(WeightsError, match=r"Conv3d_1a_7x7.conv3d.weight is \(64, 2, 7, 7, 7\), expected \(64, 3, 7, 7, 7\)"):
        convert(flow)


def test_files_of_no_or_two_dialects_say_what_was_seen():
    with pytest.raises(WeightsError, match=r"the 2 names in the file fit no known dialect \(seen: fc.bias, fc.weight\)") as refused:
        detect({"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})
    assert refused.value.allowed == list(DIALECTS)
    with pytest.raises(WeightsError, match="fit several dialects, pyslowfast and tsm"):
        detect({**theirs("tsm"), "s1.pathway0_stem.conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="seen: nothing"):
        detect({})
    with pytest.raises(OptionsError, match="unknown dialect 'keras'"):
        convert({}, "keras")
    with pytest.raises(WeightsError, match=r"both with and without 'module\.'"):
        convert({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "tsm")


def test_a_file_with_only_other_names_misses_everything():
    with pytest.raises(WeightsError, match=r"\d+ missing: .* and \d+ more; 1 left over: a$"):
        convert({"a": torch.zeros(1)}, "pyslowfast")


def test_clips_of_the_convolutional_lstm():
    kth = convert(theirs("authors-clstm", 6, frames=32, height=120, width=160, strides=(2, 2)))
    assert kth.config == {"num_classes": 6, "frames": 32, "height": 120, "width": 160, "hidden": 32, "strides": (2, 2)}
    small = theirs("authors-clstm", frames=8, height=32, width=48, strides=(2, 2), hidden=4)
    with pytest.raises(WeightsError, match="reads 192 numbers, which is no clip of 16 x 224 x 224 or 32 x 120 x 160"):
        convert(small)
    given = {"frames": 8, "height": 32, "width": 48}
    assert convert(small, config=given).config == {"num_classes": 5, **given, "hidden": 4, "strides": (2, 2)}
    last_step = theirs("authors-clstm", 6, frames=1, height=120, width=160, strides=(2, 2))
    with pytest.raises(WeightsError, match="reads 2240 numbers"):
        convert(last_step)


def test_options_that_make_no_network():
    with pytest.raises(OptionsError, match="depth cannot be '34'"):
        convert(theirs("tsm"), config={"depth": 34})
    with pytest.raises(OptionsError, match="has no option 'colour'"):
        convert(theirs("tsm"), config={"colour": 1})
    with pytest.raises(OptionsError, match="'strides': 3} do not go with clstm"):
        convert(theirs("authors-clstm"), config={"strides": 3})


def changed(ending, change):
    state = theirs("tsm")
    name = next(name for name in state if name.endswith(ending))
    return {**state, name: change(state[name])}


def spoilt(value):
    def change(tensor):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        tensor.view(-1)[-1] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("ending", "change", "told"),
    [
        ("conv1.weight", spoilt(math.nan), r"^base_model\.conv1\.weight holds NaN, infinity"),
        ("bn1.bias", spoilt(-math.inf), r"^base_model\.bn1\.bias holds NaN, infinity"),
        ("new_fc.bias", lambda tensor: spoilt(1e300)(tensor.double()), "new_fc.bias holds .* too large for float32"),
        ("bn1.running_var", spoilt(-1e-3), r"^base_model\.bn1\.running_var holds negative variances"),
        ("conv1.weight", lambda tensor: tensor.to(torch.complex64), "conv1.weight holds complex64, which cannot be kept"),
        ("conv1.weight", lambda tensor: tensor.to(torch.int32), "conv1.weight holds int32"),
        ("bn1.weight", lambda tensor: tensor > 0, "bn1.weight holds bool"),
        ("conv1.weight", lambda tensor: tensor.to(torch.float8_e4m3fn), "conv1.weight holds float8_e4m3fn"),
        ("num_batches_tracked", lambda tensor: tensor.float(), "num_batches_tracked holds float32"),
    ],
)
def test_numbers_that_no_network_takes(ending, change, told):
    with pytest.raises(WeightsError, match=told):
        convert(changed(ending, change))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_numbers_are_taken(kind):
    found = convert(changed("base_model.conv1.weight", lambda tensor: tensor.to(kind))).state["s1.conv.weight"]
    assert torch.equal(found.float(), ours("tsm").state_dict()["s1.conv.weight"].to(kind).float())


def test_names_cannot_speak_to_the_terminal():
    with pytest.raises(WeightsError, match=r"1 left over: \\x1b\[2J\\n\\u202eb$"):
        convert({**theirs("tsm"), "\x1b[2J\n\u202eb": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"seen: \\x1b\]0;x\\x07\)"):
        detect({"\x1b]0;x\x07": torch.zeros(1)})
