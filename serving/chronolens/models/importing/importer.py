"""Turns a checkpoint into weights that can be served: read, translated, checked, written once as safetensors with its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chronolens.errors import OptionsError
from chronolens.models.importing.dialects import Imported, convert
from chronolens.models.importing.labels import read_labels
from chronolens.models.importing.preparation import clip_spec
from chronolens.models.importing.public import PublicFile
from chronolens.models.importing.reading import read_checkpoint
from chronolens.models.registry import build_model
from chronolens.models.weights import WeightsRecord, read_records, save_weights
from chronolens.store import PUBLIC, file_digest

AUTO = "auto"
UNKNOWN = "not stated"
LABELS = "labels"
"""Folder of a store with the class names of data sets, ``NAME.json`` or ``NAME.txt``."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


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


def import_checkpoint(path: Path, store: Path, options: ImportOptions, public: PublicFile | None = None) -> WeightsRecord:
    """Write a checkpoint into a store and return its record.

    Args:
        path: torch file, safetensors or caffe2 pickle.
        store: folder to write, made when missing.
        options: what the caller says.
        public: the entry of the list that the file is, when it is one.

    Raises:
        WeightsError: the file cannot be read, or is no network of ours; nothing is written then.
        OptionsError: a name that is taken or cannot be one, an unknown dialect, or a clip that the network cannot take.
    """
    name = options.name or (public.name if public else _name_of(path))
    _check_name(name, store, options.replace)
    dialect = options.dialect if options.dialect != AUTO or public is None else public.dialect
    config = {**(public.config if public else {}), **options.config}
    clip = {**(public.clip if public else {}), **options.clip}
    imported = convert(read_checkpoint(path), None if dialect == AUTO else dialect, config=config)
    labels = options.labels or _labels_of(public, store)
    count = imported.config["num_classes"]
    record = WeightsRecord(
        name,
        imported.architecture,
        imported.config,
        clip_spec(imported, **clip),
        read_labels(labels, count) if labels else tuple(f"class_{index}" for index in range(count)),
        options.data_set or (public.data_set if public else UNKNOWN),
        options.licence or (public.licence if public else UNKNOWN),
        _source(path, imported, public),
        warnings=() if labels else ("the names of the classes are not known; they are numbered",),
    )
    model = build_model(imported.architecture, **imported.config)
    model.load_state_dict(imported.state)
    return save_weights(model, record, store, exact=True)


def _source(path: Path, imported: Imported, public: PublicFile | None) -> str:
    origin = f"{public.url}, " if public else ""
    return f"{origin}{path.name}, sha256 {file_digest(path)}, read as {imported.dialect}"


def _labels_of(public: PublicFile | None, store: Path) -> Path | None:
    if public is None or not public.labels:
        return None
    places = [store / LABELS / f"{public.labels}.{kind}" for kind in ("json", "txt")]
    return next((place for place in places if place.is_file()), None)


def _name_of(path: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:64] or "imported"


def _check_name(name: str, store: Path, replace: bool) -> None:
    if not _NAME.fullmatch(name) or name == PUBLIC:
        raise OptionsError("a model is named by small letters, digits, '.', '_' and '-', and not 'public'", pointer="/name")
    if not replace and name in read_records(store):
        raise OptionsError(f"the store has a model {name!r} already; choose another name or replace it", pointer="/name")
