"""SlowFast files: PySlowFast (torch and caffe2), PyTorchVideo and MMAction2.

Sources: facebookresearch/SlowFast (``slowfast/utils/c2_model_loading.py``, ``configs/Kinetics/c2``), facebookresearch/pytorchvideo
(``models/slowfast.py``, ``models/resnet.py``), open-mmlab/mmaction2 (``models/backbones/resnet3d_slowfast.py``,
``models/heads/slowfast_head.py``: the backbone returns slow, fast; the head names them fast, slow and joins what it calls slow first, so
the classifier reads fast channels before slow ones).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chronolens.errors import WeightsError
from chronolens.importing.inception_family import same_name
from chronolens.importing.residual import depth_of, place
from chronolens.importing.translation import Lookup, Translation
from chronolens.models.resnet import DEPTHS

ALPHAS = {5: 8, 7: 4}
"""Alpha of the published networks of 50 layers by the temporal kernel of their lateral connections; the weights do not hold it."""

STATISTICS = ("data_preprocessor.mean", "data_preprocessor.std")
"""What MMAction2 leaves in a file that was not published: the clip statistics, which its preparation has."""

Configure = Callable[[Lookup, Mapping[str, Any]], dict[str, Any]]
_CAFFE2_LEAVES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def spell_caffe2(name: str) -> str:
    """Return the blob of a PySlowFast model-zoo pickle: ``t_`` is the fast pathway, ``bn_s``, ``_b``, ``_rm``, ``_riv`` a BatchNorm."""
    if name.startswith("head."):
        return {"weight": "pred_w", "bias": "pred_b"}[name.rpartition(".")[2]]
    where = place(name)
    fast = "t_" if where.pathway or where.lateral else ""
    if where.lateral:
        last = DEPTHS[50][where.stage - 2] - 1  # a lateral connection is named after the block that it leaves
        base = "t_pool1_subsample" if where.stage == 1 else f"t_res{where.stage}_{last}_branch2c_bn_subsample"
    elif where.block is None:
        base = f"{fast}res_conv1" if where.norm else f"{fast}conv1"
    else:
        branch = "1" if where.layer.startswith("branch1") else f"2{where.letter}"
        base = f"{fast}res{where.stage}_{where.block}_branch{branch}"
    return f"{base}_bn_{_CAFFE2_LEAVES.get(where.leaf, where.leaf)}" if where.norm else f"{base}_w"


def spell_pytorchvideo(name: str) -> str:
    """Return PyTorchVideo's name: ``blocks.0`` is the stem, ``blocks.1`` to ``blocks.4`` the stages, ``blocks.6`` the head."""
    if name.startswith("head."):
        return name.replace("head.projection", "blocks.6.proj")
    where = place(name)
    base = f"blocks.{where.stage - 1}"
    if where.lateral:
        return f"{base}.multipathway_fusion.{'norm' if where.norm else 'conv_fast_to_slow'}.{where.leaf}"
    base = f"{base}.multipathway_blocks.{where.pathway}"
    kind = "norm" if where.norm else "conv"
    if where.block is None:
        return f"{base}.{kind}.{where.leaf}"
    inside = f"branch1_{kind}" if where.layer.startswith("branch1") else f"branch2.{kind}_{where.letter}"
    return f"{base}.res_blocks.{where.block}.{inside}.{where.leaf}"


def spell_mmaction2(name: str) -> str:
    """Return MMAction2's name; lateral connections lie in the slow path."""
    if name.startswith("head."):
        return name.replace("head.projection", "cls_head.fc_cls")
    where = place(name)
    base = f"backbone.{'fast' if where.pathway else 'slow'}_path"
    kind = "bn" if where.norm else "conv"
    if where.lateral:
        return f"{base}.{'conv1' if where.stage == 1 else f'layer{where.stage - 1}'}_lateral.{kind}.{where.leaf}"
    if where.block is None:
        return f"{base}.conv1.{kind}.{where.leaf}"
    inside = "downsample" if where.layer.startswith("branch1") else f"conv{'abc'.index(where.letter) + 1}"
    return f"{base}.layer{where.stage - 1}.{where.block}.{inside}.{kind}.{where.leaf}"


def _configure(**fixed: Any) -> Configure:
    def configure(found: Lookup, given: Mapping[str, Any]) -> dict[str, Any]:
        width = found.size("s1.pathway0_stem.conv.weight", 0, 64)
        thin = max(found.size("s1.pathway1_stem.conv.weight", 0, 8), 1)
        kernel = found.size("s1_fuse.conv_f2s.weight", 2, 7)
        if "alpha" not in given and kernel not in ALPHAS:
            raise WeightsError(f"lateral connections of {kernel} steps belong to no published network; give alpha")
        return {
            "num_classes": found.size("head.projection.weight", 0, 400),
            "alpha": ALPHAS.get(kernel, 0),
            "beta": max(width // thin, 1),
            "depth": depth_of(found, lambda stage, position: f"s{stage}.pathway0_res{position}"),
            "width": width,
            "fusion_kernel": kernel,
            "fusion_ratio": max(found.size("s1_fuse.conv_f2s.weight", 0, 2 * thin) // thin, 1),
            **fixed,
        }

    return configure


_PYSLOWFAST = _configure(head="mean_of_softmax")
_MMACTION2 = _configure(head="global", fusion_norm=False, slow_first=False, slow_frames="stride")

TRANSLATIONS = (
    Translation("pyslowfast", "slowfast", same_name, _PYSLOWFAST, ("s1.pathway0_stem.", "s1.pathway1_stem.")),
    Translation(
        "pyslowfast-caffe2", "slowfast", spell_caffe2, _PYSLOWFAST, ("t_conv1_", "t_res"), ignored=("_momentum", "model_iter", "lr")
    ),
    Translation("pytorchvideo", "slowfast", spell_pytorchvideo, _configure(head="softmax_of_mean"), ("blocks.0.multipathway_",)),
    Translation("mmaction2-slowfast", "slowfast", spell_mmaction2, _MMACTION2, ("backbone.slow_path.", "backbone.fast_path."), STATISTICS),
)
