"""I3D and C-LSTM files: their names are ours, so importing one is a check and not a renaming.

Sources: piergiaj/pytorch-i3d (``pytorch_i3d.py``); interpreting-video-features (``models/I3D_doubled.py``, ``models/CLSTM_4.py`` and
``models/convolution_lstm.py``), the code of Mänttäri et al. 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chronolens.errors import WeightsError
from chronolens.importing.translation import Lookup, Translation

AUTHORS_CLIPS = ((16, 224, 224), (32, 120, 160))
"""Frames, height and width of the authors' clips: Something-Something, then KTH."""


def same_name(name: str) -> str:
    """Return a name as it is."""
    return name


def _standard(found: Lookup, given: Mapping[str, Any]) -> dict[str, Any]:
    classes = found.size("logits.conv3d.weight", 0, 400)
    return {"num_classes": classes, "temporal_strides": (2, 2, 2), "head": "sliding"}


def _long(found: Lookup, given: Mapping[str, Any]) -> dict[str, Any]:
    classes = found.size("logits.conv3d.weight", 0, 174)
    return {"num_classes": classes, "temporal_strides": (1, 1, 2), "head": "global"}


def _cells(found: Lookup, given: Mapping[str, Any]) -> dict[str, Any]:
    depth = 0
    while found.has(f"clstm.cell{depth}.Wxi.weight"):
        depth += 1
    strides = tuple(given.get("strides", (2,) * max(depth, 1)))
    hidden = found.size("clstm.bn.weight", 0, 32)
    inputs = found.size("endFC.weight", 1, 0)
    frames, height, width = _clip(inputs, hidden, strides, given)
    classes = found.size("endFC.weight", 0, 174)
    return {"num_classes": classes, "frames": frames, "height": height, "width": width, "hidden": hidden, "strides": strides}


def _clip(inputs: int, hidden: int, strides: tuple[int, ...], given: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return frames, height and width: those of the authors' two clips that give the classifier its inputs."""
    clips = [(given.get("frames", f), given.get("height", h), given.get("width", w)) for f, h, w in AUTHORS_CLIPS]
    fitting = [clip for clip in clips if clip[0] * hidden * _positions(clip[1], clip[2], strides) == inputs]
    if not inputs:
        return clips[0]
    if not fitting:
        raise WeightsError(
            f"the classifier reads {inputs} numbers, which is no clip of 16 x 224 x 224 or 32 x 120 x 160 with every step read;"
            " give frames, height and width if it is another"
        )
    return fitting[0]


def _positions(height: int, width: int, strides: tuple[int, ...]) -> int:
    """Return the places of the last map: each cell strides, then a max-pooling halves."""
    for stride in strides:
        height, width = (-(-height // stride) // 2, -(-width // stride) // 2)
    return height * width


TRANSLATIONS = (
    Translation("pytorch-i3d", "i3d", same_name, _standard, ("Conv3d_1a_7x7.",)),
    Translation("authors-i3d", "i3d", same_name, _long, ("Conv3d_1a_7x7.",)),
    Translation("authors-clstm", "clstm", same_name, _cells, ("clstm.cell0.",)),
)
