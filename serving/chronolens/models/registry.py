"""The architectures by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from chronolens.errors import OptionsError, UnknownModelError
from chronolens.models.base import VideoNetwork
from chronolens.models.c3d import C3D, C3DConfig
from chronolens.models.clstm import CLSTM, CLSTMConfig
from chronolens.models.i3d import I3D, I3DConfig
from chronolens.models.slowfast import SlowFast, SlowFastConfig
from chronolens.models.tsm import TSM, TSMConfig

_Builder = tuple[Callable[..., VideoNetwork], type[Any]]

_ARCHITECTURES: dict[str, _Builder] = {
    "i3d": (I3D, I3DConfig),
    "clstm": (CLSTM, CLSTMConfig),
    "slowfast": (SlowFast, SlowFastConfig),
    "tsm": (TSM, TSMConfig),
    "c3d": (C3D, C3DConfig),
}
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "i3d_kth": ("i3d", {"num_classes": 6, "dropout": 0.7, "last_stride": 1}),
    "clstm_kth": (
        "clstm",
        {"num_classes": 6, "frames": 32, "height": 120, "width": 160, "strides": (2, 2), "dropout": 0.5},
    ),
    "slowfast_r50": ("slowfast", {}),
    "slowfast_r50_4x16": ("slowfast", {"alpha": 8, "fusion_kernel": 5}),
    "slowfast_r18": ("slowfast", {"depth": 18}),
    "tsm_r50": ("tsm", {}),
    "tsm_r18": ("tsm", {"depth": 18}),
}


def list_models() -> list[str]:
    """Return the names that :func:`build_model` knows."""
    return sorted([*_ARCHITECTURES, *_VARIANTS])


def build_model(name: str, **config: Any) -> VideoNetwork:
    """Return an untrained network.

    Args:
        name: one of :func:`list_models`: an architecture, or a variant of one such as ``clstm_kth`` (32 frames of 120 x 160, two cells)
            or ``slowfast_r50_4x16``.
        config: fields of the architecture's config dataclass, such as ``num_classes=174`` or ``temporal_strides=(2, 2, 2)``.

    Raises:
        UnknownModelError: no such architecture; the message lists what exists.
        OptionsError: no such field.
    """
    architecture, defaults = _VARIANTS.get(name, (name, {}))
    if architecture not in _ARCHITECTURES:
        near = difflib.get_close_matches(name, list_models()) or list_models()
        raise UnknownModelError(f"no architecture {name!r}; known: {', '.join(list_models())}", allowed=near)
    model_class, config_class = _ARCHITECTURES[architecture]
    fields = {field.name for field in dataclasses.fields(config_class)}
    unknown = sorted(set(config) - fields)
    if unknown:
        raise OptionsError(f"{name} has no option {unknown[0]!r}", pointer=f"/{unknown[0]}", allowed=sorted(fields))
    return model_class(config_class(**{**defaults, **config}))
