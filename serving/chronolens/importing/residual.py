"""What the files of residual networks have in common: names taken apart, and the shape of the network read from them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from chronolens.errors import WeightsError
from chronolens.importing.translation import Lookup
from chronolens.models.resnet import DEPTHS

_PARTS = re.compile(
    r"s(?P<stage>\d)(?P<fuse>_fuse)?\.(?:pathway(?P<pathway>\d)_)?(?:stem\.|res(?P<block>\d+)\.)?(?P<layer>.+)\.(?P<leaf>\w+)"
)


@dataclass(frozen=True)
class Place:
    """One of our names, taken apart.

    Args:
        stage: 1 for the stem, 2 to 5 for the residual stages.
        pathway: 0 for the slow or only one, 1 for the fast one.
        block: position in the stage; None in a stem or a lateral connection.
        lateral: the connection that leaves this stage.
        layer: ``conv``, ``bn``, ``conv_f2s``, ``branch1``, ``branch1_bn``, ``branch2.a``, ``branch2.a_bn``, ...
        leaf: ``weight``, ``bias``, ``running_mean``, ...
    """

    stage: int
    pathway: int
    block: int | None
    lateral: bool
    layer: str
    leaf: str

    @property
    def norm(self) -> bool:
        """Whether this is a BatchNorm."""
        return self.layer.endswith("bn")

    @property
    def letter(self) -> str:
        """``a``, ``b`` or ``c`` of the residual branch."""
        return self.layer.removeprefix("branch2.")[0]


def place(name: str) -> Place:
    """Return one of our names taken apart; heads are not places."""
    found = _PARTS.fullmatch(name)
    assert found is not None, name
    block = None if found["block"] is None else int(found["block"])
    return Place(int(found["stage"]), int(found["pathway"] or 0), block, bool(found["fuse"]), found["layer"], found["leaf"])


def depth_of(found: Lookup, block: Callable[[int, int], str]) -> int:
    """Return the depth of the network whose blocks are ``block(stage, position)``.

    A block counts when one of its tensors is there, so that a single missing one is named as missing and does not change the network.

    Raises:
        WeightsError: no network of ours has so many blocks.
    """
    counts = []
    for stage in range(2, 6):
        count = 0
        while _has_any(found, block(stage, count), "ab"):
            count += 1
        counts.append(count)
    bottleneck = _has_any(found, block(2, 0), "c")
    for depth, blocks in DEPTHS.items():
        if tuple(counts) == blocks and bottleneck == (depth >= 50):
            return depth
    if min(counts) == 0:
        return 50  # parts are missing altogether, and the check will name them
    raise WeightsError(f"a network with {', '.join(map(str, counts))} blocks in its stages is not known, only those of {_known()} layers")


def _has_any(found: Lookup, block: str, letters: str) -> bool:
    return any(found.has(f"{block}.branch2.{letter}{kind}.weight") for letter in letters for kind in ("", "_bn"))


def _known() -> str:
    return " and ".join(map(str, DEPTHS))
