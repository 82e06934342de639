"""How each dialect's networks were evaluated: frames, size and range of their clips.

Sources: the evaluation settings of each code base (PySlowFast ``configs/Kinetics/c2`` and ``configs/SSv2``; temporal-shift-module
``test_models.py`` with one centre crop; MMAction2 ``configs/recognition``, the pipelines of validation; kinetics-i3d's readme; the
preparation scripts of Mänttäri et al. 2020). PySlowFast and PyTorchVideo test at 256 pixels, where the last map is larger than the pooling
window and the heads differ.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from chronolens.clips import ClipSpec
from chronolens.errors import OptionsError
from chronolens.importing.dialects import Imported
from chronolens.models.slowfast import slow_frame_indices
from chronolens.sampling import WHOLE

SOMETHING_CLASSES = 174
"""Classes of Something-Something V2, whose clips are spread over the whole video instead of cut out of its middle."""
KTH_CLASSES = 6

CHANGES = ("frames", "size", "sampling", "interval")
"""What a caller, or the entry of a public file, may set otherwise."""

_SIDE = (32, 1024)
LIMITS = {"frames": (1, 256), "size": _SIDE, "height": _SIDE, "width": _SIDE, "interval": (1, 1000)}
"""Least and largest numbers; 32 pixels are one cell of the deepest maps."""
LARGEST_CLIP = 2**25
"""Pixels of all frames of a clip: 128 of 512 x 512."""

_BYTE = 1 / 255
_KINETICS: dict[str, Any] = {"scale": _BYTE, "mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}
_IMAGENET: dict[str, Any] = {"scale": _BYTE, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_PYSLOWFAST: dict[str, Any] = {"resize": "crop-pyslowfast", "short_side": 256, "interpolation": "bilinear", **_KINETICS}
_MMACTION2: dict[str, Any] = {"resize": "crop-mmaction2", "short_side": 256, "interpolation": "bilinear", **_IMAGENET}
_I3D: dict[str, Any] = {"resize": "crop", "short_side": 256, "interpolation": "bilinear", "scale": 2 * _BYTE, "mean": (1.0, 1.0, 1.0)}
_TSM: dict[str, Any] = {"resize": "crop", "short_side": 256, "interpolation": "pil", **_IMAGENET}

_SPECS: dict[str, ClipSpec] = {
    "pytorch-i3d": ClipSpec(64, 224, 224, "mmaction2", **_I3D),
    "pyslowfast": ClipSpec(32, 256, 256, "pyslowfast", interval=2, **_PYSLOWFAST),
    "pyslowfast-caffe2": ClipSpec(32, 256, 256, "pyslowfast", interval=2, **_PYSLOWFAST),
    "pytorchvideo": ClipSpec(32, 256, 256, "pytorchvideo", interval=2, **_PYSLOWFAST),
    "tsm": ClipSpec(8, 224, 224, "centre", **_TSM),
    "mmaction2-tsm": ClipSpec(8, 224, 224, "centre", **_MMACTION2),
    "mmaction2-slowfast": ClipSpec(32, 224, 224, "mmaction2", interval=2, **_MMACTION2),
    "authors-i3d": ClipSpec(16, 224, 224, "authors-something"),
    "authors-clstm": ClipSpec(16, 224, 224, "authors-something"),
}
_KTH = ClipSpec(32, 120, 160, "authors-kth")


def clip_spec(
    imported: Imported, *, frames: int | None = None, size: int | None = None, sampling: str | None = None, interval: int | None = None
) -> ClipSpec:
    """Return how clips are prepared for an imported network.

    Args:
        imported: its dialect, number of classes and options decide.
        frames: number of frames; the dialect's when None.
        size: height and width of the crop in pixels, for dialects that crop.
        sampling, interval: see :class:`ClipSpec`; a rule that spreads over the whole video takes no interval.

    Raises:
        OptionsError: unknown words, numbers outside ``LIMITS``, a clip above ``LARGEST_CLIP``, or one that the network cannot take.
    """
    _check_limits({"frames": frames, "size": size, "interval": interval})
    changes: dict[str, Any] = {"frames": frames, "height": size, "width": size, "sampling": sampling, "interval": interval}
    if sampling in WHOLE and interval is None:
        changes["interval"] = 1
    try:
        spec = dataclasses.replace(_usual(imported), **{key: value for key, value in changes.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise OptionsError(str(error), pointer="/clip") from error
    _check_limits({"frames": spec.frames, "height": spec.height, "width": spec.width})
    if (pixels := spec.frames * spec.height * spec.width) > LARGEST_CLIP:
        raise OptionsError("the clip has too many pixels", pointer="/clip", limit=LARGEST_CLIP, observed=pixels)
    _check(imported, spec)
    return spec


def _check_limits(numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        if value is None:
            continue
        least, largest = LIMITS[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= largest:
            raise OptionsError(f"{name} {value!r} is no whole number from {least} to {largest}", pointer=f"/{name}")


def _usual(imported: Imported) -> ClipSpec:
    config, spec = imported.config, _SPECS[imported.dialect]
    if imported.architecture == "slowfast" and config["num_classes"] == SOMETHING_CLASSES and imported.dialect != "mmaction2-slowfast":
        return dataclasses.replace(spec, sampling="pyslowfast-ssv2", interval=1)
    if imported.dialect.startswith("authors") and config["num_classes"] == KTH_CLASSES:
        spec = _KTH
    if imported.architecture == "clstm":
        spec = dataclasses.replace(spec, frames=config["frames"], height=config["height"], width=config["width"])
    return spec


def _check(imported: Imported, spec: ClipSpec) -> None:
    config = imported.config
    if imported.architecture == "slowfast":
        slow_frame_indices(spec.frames, config["alpha"], config.get("slow_frames", "linspace"))
    built = (config.get("frames"), config.get("height"), config.get("width"))
    if imported.architecture == "clstm" and (spec.frames, spec.height, spec.width) != built:
        raise OptionsError(f"the classifier of this network reads clips of {built[0]} x {built[1]} x {built[2]} only", pointer="/frames")
