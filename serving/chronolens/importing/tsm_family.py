"""TSM files: mit-han-lab's and MMAction2's. Both wrap the shifted convolution in a module called ``net``.

Sources: mit-han-lab/temporal-shift-module (``ops/models.py``, ``ops/temporal_shift.py``), open-mmlab/mmaction2
(``models/backbones/resnet_tsm.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chronolens.importing.residual import depth_of, place
from chronolens.importing.slowfast_family import STATISTICS
from chronolens.importing.translation import Lookup, Translation


def spell_tsm(name: str) -> str:
    """Return mit-han-lab's name: a torchvision residual network under ``base_model``, the classifier beside it."""
    if name.startswith("head."):
        return name.replace("head.", "new_fc.")
    where = place(name)
    if where.block is None:
        return f"base_model.{'bn1' if where.norm else 'conv1'}.{where.leaf}"
    base = f"base_model.layer{where.stage - 1}.{where.block}"
    if where.layer.startswith("branch1"):
        return f"{base}.downsample.{int(where.norm)}.{where.leaf}"
    number = "abc".index(where.letter) + 1
    shifted = ".net" if number == 1 and not where.norm else ""
    return f"{base}.{'bn' if where.norm else 'conv'}{number}{shifted}.{where.leaf}"


def spell_mmaction2(name: str) -> str:
    """Return MMAction2's name: convolution and BatchNorm share a module."""
    if name.startswith("head."):
        return name.replace("head.", "cls_head.fc_cls.")
    where = place(name)
    kind = "bn" if where.norm else "conv"
    if where.block is None:
        return f"backbone.conv1.{kind}.{where.leaf}"
    base = f"backbone.layer{where.stage - 1}.{where.block}"
    if where.layer.startswith("branch1"):
        return f"{base}.downsample.{kind}.{where.leaf}"
    shifted = ".net" if where.letter == "a" and not where.norm else ""
    return f"{base}.conv{'abc'.index(where.letter) + 1}.{kind}{shifted}.{where.leaf}"


def _configure(found: Lookup, given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_classes": found.size("head.weight", 0, 400),
        "depth": depth_of(found, lambda stage, position: f"s{stage}.res{position}"),
        "width": found.size("s1.conv.weight", 0, 64),
        "shift": 8,  # the weights do not hold it; every published file says shift8
    }


TRANSLATIONS = (
    Translation("tsm", "tsm", spell_tsm, _configure, ("base_model.layer1.",), flat=True),
    Translation("mmaction2-tsm", "tsm", spell_mmaction2, _configure, ("backbone.layer1.0.conv1.conv.net.",), STATISTICS, flat=True),
)
