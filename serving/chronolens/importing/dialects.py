"""The dialects of public checkpoints: which one a file speaks, and its translation into our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from chronolens.errors import OptionsError, WeightsError
from chronolens.importing import inception_family, slowfast_family, tsm_family
from chronolens.importing.translation import SHOWN, Translation
from chronolens.importing.wording import plain

DIALECTS: tuple[str, ...] = (
    "pytorch-i3d",
    "pyslowfast",
    "pyslowfast-caffe2",
    "pytorchvideo",
    "tsm",
    "mmaction2-tsm",
    "mmaction2-slowfast",
    "authors-i3d",
    "authors-clstm",
)
PREFIX = "module."
"""What PyTorch's parallel wrapper puts before every name."""

_TRANSLATIONS: dict[str, Translation] = {
    known.dialect: known for known in (*inception_family.TRANSLATIONS, *slowfast_family.TRANSLATIONS, *tsm_family.TRANSLATIONS)
}


@dataclass(frozen=True)
class Imported:
    """A checkpoint in our names.

    Args:
        dialect: what the file spoke, one of ``DIALECTS``.
        architecture: key of :func:`chronolens.models.build_model`.
        config: options of the architecture.
        state: every tensor of the network, in its shape, so that ``load_state_dict`` takes it strictly.
    """

    dialect: str
    architecture: str
    config: dict[str, Any]
    state: dict[str, Tensor]


def detect(tensors: Mapping[str, Tensor]) -> str:
    """Return the dialect of a file, told by names that no other has.

    pytorch-i3d and the authors' I3D have the same names; the authors trained theirs under a parallel wrapper, so a file whose names begin
    with ``module.`` is taken for theirs.

    Args:
        tensors: as read from the file.

    Raises:
        WeightsError: no dialect fits; the error says what was seen.
    """
    names = [name.removeprefix(PREFIX) for name in tensors]
    fitting = [known for known in _TRANSLATIONS.values() if any(name.startswith(known.begins) for name in names)]
    dialects = [known.dialect for known in fitting]
    if "authors-i3d" in dialects:
        dialects.remove("pytorch-i3d" if any(name.startswith(PREFIX) for name in tensors) else "authors-i3d")
    if len(dialects) != 1:
        seen = ", ".join(map(plain, sorted(names)[:SHOWN])) or "nothing"
        raise WeightsError(f"the {len(names)} names in the file fit {_either(dialects)} (seen: {seen})", allowed=DIALECTS)
    return dialects[0]


def convert(tensors: Mapping[str, Tensor], dialect: str | None = None, *, config: Mapping[str, Any] | None = None) -> Imported:
    """Return a checkpoint in our names, every name, shape and number checked.

    Args:
        tensors: as read from the file, names with or without ``module.``.
        dialect: one of ``DIALECTS``; told from the names when None.
        config: options of the architecture that the weights do not show, such as ``alpha``; they win over what was derived.

    Raises:
        OptionsError: unknown dialect, or options in ``config`` that the architecture does not take.
        WeightsError: no dialect fits, the file is of a network that is not ours, or tensors are missing, left over, misshapen, of numbers
            that a network does not take, or not finite.
    """
    translation = _TRANSLATIONS.get(dialect or detect(tensors))
    if translation is None:
        raise OptionsError(f"unknown dialect {dialect!r}", pointer="/as", allowed=DIALECTS)
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    if len(bare) != len(tensors):
        raise WeightsError(f"some names occur in the file both with and without {PREFIX!r}")
    try:
        options = translation.options(bare, config or {})
        return Imported(translation.dialect, translation.architecture, options, translation.state(bare, options))
    except OptionsError as error:
        if config:
            raise
        raise WeightsError(f"the file describes no {translation.architecture} network: {error}") from error  # all of it is the file's


def _either(dialects: list[str]) -> str:
    return f"several dialects, {' and '.join(dialects)}" if dialects else "no known dialect"
