"""Turns a checkpoint into weights that can be served: read, translated, checked, tried, written once as safetensors with its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from chronolens.clips import ClipSpec
from chronolens.errors import OptionsError, WeightsError
from chronolens.golden import golden_frames
from chronolens.importing.dialects import Imported, convert
from chronolens.importing.labels import read_labels
from chronolens.importing.preparation import clip_spec
from chronolens.importing.public import NAME, PublicFile
from chronolens.importing.reading import read_checkpoint
from chronolens.importing.wording import plain
from chronolens.models.base import VideoNetwork
from chronolens.models.registry import build_model
from chronolens.models.weights import WeightsRecord, read_records, save_weights
from chronolens.store import PUBLIC, file_digest
from chronolens.video.prepare import prepare

AUTO = "auto"
UNKNOWN = "not stated"
LABELS = "labels"
"""Folder of a store with the class names of data sets, ``NAME.json`` or ``NAME.txt``."""


@dataclass(frozen=True)
class ImportOptions:
    """What the caller knows about a checkpoint; what is left out comes from the file, its dialect or the list of public files.

    Args:
        name: of the record; the file's own when None.
        dialect: one of ``DIALECTS``, or ``auto``.
        labels: file with class names, see :func:`read_labels`.
        clip: any of ``preparation.CHANGES``, see :func:`clip_spec`.
        licence, data_set: for the record.
        config: options of the architecture that the weights do not show.
        replace: write over a record of that name.
    """

    name: str | None = None
    dialect: str = AUTO
    labels: Path | None = None
    clip: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    data_set: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    replace: bool = False


@dataclass(frozen=True)
class TriedNetwork:
    """The network of a checkpoint, which has answered a clip.

    Args:
        imported: what the file is.
        clip: how its clips are prepared.
        model: in evaluation mode, with the weights.
    """

    imported: Imported
    clip: ClipSpec
    model: VideoNetwork


def import_checkpoint(path: Path, store: Path, options: ImportOptions, public: PublicFile | None = None) -> WeightsRecord:
    """Write a checkpoint into a store and return its record.

    Args:
        path: torch file, safetensors or caffe2 pickle.
        store: folder to write, made when missing.
        options: what the caller says.
        public: the entry of the list that the file is, when it is one.

    Raises:
        WeightsError: as :func:`try_checkpoint` and :func:`keep_network`; nothing is written then.
        OptionsError: as :func:`try_checkpoint` and :func:`keep_network`.
    """
    _name(path, store, options, public)  # before the work
    return keep_network(try_checkpoint(path, options, public), path, store, options, public)


def try_checkpoint(path: Path, options: ImportOptions, public: PublicFile | None = None) -> TriedNetwork:
    """Return the network of a checkpoint, after one clip was run through it.

    Args:
        path, options, public: see :func:`import_checkpoint`.

    Raises:
        WeightsError: the file cannot be read, is no network of ours, or its network does not run or answers nonsense.
        OptionsError: an unknown dialect, options that the network does not have, or a clip that it cannot take.
    """
    dialect = options.dialect if options.dialect != AUTO or public is None else public.dialect
    config = {**(public.config if public else {}), **options.config}
    clip = {**(public.clip if public else {}), **options.clip}
    imported = convert(read_checkpoint(path), None if dialect == AUTO else dialect, config=config)
    spec = clip_spec(imported, **clip)
    model = build_model(imported.architecture, **imported.config)
    try:
        model.load_state_dict(imported.state)
    except (RuntimeError, TypeError) as error:
        raise WeightsError(f"the weights do not fit the network: {_first_line(error)}") from error
    model.eval()
    _try(model, spec, imported.config["num_classes"])
    return TriedNetwork(imported, spec, model)


def keep_network(network: TriedNetwork, path: Path, store: Path, options: ImportOptions, public: PublicFile | None = None) -> WeightsRecord:
    """Write a network into a store and return its record.

    Args:
        network: of :func:`try_checkpoint`.
        path, store, options, public: see :func:`import_checkpoint`.

    Raises:
        WeightsError: the class names or the records of the store cannot be read, or the names are not those of this network.
        OptionsError: a name that is taken or cannot be one.
    """
    name, imported = _name(path, store, options, public), network.imported
    labels = options.labels or _labels_of(public, store)
    count = imported.config["num_classes"]
    record = WeightsRecord(
        name,
        imported.architecture,
        imported.config,
        network.clip,
        read_labels(labels, count) if labels else tuple(f"class_{index}" for index in range(count)),
        options.data_set or (public.data_set if public else UNKNOWN),
        options.licence or (public.licence if public else UNKNOWN),
        _source(path, imported, public),
        warnings=() if labels else ("the names of the classes are not known; they are numbered",),
    )
    return save_weights(network.model, record, store, exact=True)


def _try(model: VideoNetwork, spec: ClipSpec, classes: int) -> None:
    """Run the golden clip through a network."""
    size = f"{spec.frames} x {spec.height} x {spec.width}"
    try:
        with torch.no_grad():
            logits = model(torch.from_numpy(prepare(golden_frames(spec), spec)))
    except Exception as error:  # whatever it is, this network cannot be served
        raise WeightsError(f"the network does not run on a clip of {size}: {type(error).__name__}: {_first_line(error)}") from error
    if tuple(logits.shape) != (1, classes):
        raise WeightsError(f"the network answers a clip of {size} with logits of shape {tuple(logits.shape)}, not {(1, classes)}")
    if not torch.isfinite(logits).all():
        raise WeightsError(f"the network answers a clip of {size} with logits that are not finite")


def _first_line(error: Exception) -> str:
    return plain(next(iter(str(error).splitlines()), ""))


def _source(path: Path, imported: Imported, public: PublicFile | None) -> str:
    origin = f"{public.url}, " if public else ""
    return f"{origin}{plain(path.name)}, sha256 {file_digest(path)}, read as {imported.dialect}"


def _labels_of(public: PublicFile | None, store: Path) -> Path | None:
    if public is None or not public.labels:
        return None
    places = [store / LABELS / f"{public.labels}.{kind}" for kind in ("json", "txt")]
    return next((place for place in places if place.is_file()), None)


def _name(path: Path, store: Path, options: ImportOptions, public: PublicFile | None) -> str:
    name = options.name or (public.name if public else _name_of(path))
    _check_name(name, store, options.replace)
    return name


def _name_of(path: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:64] or "imported"


def _check_name(name: str, store: Path, replace: bool) -> None:
    if not NAME.fullmatch(name) or name == PUBLIC:
        raise OptionsError("a model is named by small letters, digits, '.', '_' and '-', and not 'public'", pointer="/name")
    if not replace and name in read_records(store):
        raise OptionsError(f"the store has a model {name!r} already; choose another name or replace it", pointer="/name")
