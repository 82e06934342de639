"""The public checkpoints that ``weights.toml`` lists under ``[public.NAME]``: where each is published and what it is."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from chronolens.errors import UnknownModelError, WeightsError
from chronolens.importing.preparation import CHANGES
from chronolens.importing.wording import plain
from chronolens.store import PUBLIC, RECORDS, replace_file, shipped_store

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What a model and a public checkpoint may be called; both name files and folders."""
_TEXTS = ("url", "what", "licence", "data_set", "dialect", "labels", "labels_url", "sha256")


@dataclass(frozen=True)
class PublicFile:
    """One public checkpoint.

    Args:
        name: what callers ask for.
        url: where its publisher has it.
        what: one sentence about it.
        licence: as published beside it.
        data_set: what it was trained on.
        dialect: one of :data:`chronolens.importing.dialects.DIALECTS`, or ``auto``.
        labels: which set of class names it has.
        labels_url: where that set is published, if it is.
        sha256: of the file, in full or as far as it is published; empty when it is not.
        clip: what of ``preparation.CHANGES`` differs from the dialect's.
        config: options of the architecture that its weights do not show.

    Raises:
        TypeError: a field of another type.
        ValueError: a name that is not as ``NAME`` says, or an address that names no file.
    """

    name: str
    url: str
    what: str
    licence: str
    data_set: str
    dialect: str = "auto"
    labels: str = ""
    labels_url: str = ""
    sha256: str = ""
    clip: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [key for key in _TEXTS if not isinstance(getattr(self, key), str)]
        wrong += [key for key in ("clip", "config") if not isinstance(getattr(self, key), dict)]
        if wrong:
            raise TypeError(f"{wrong[0]} of {self.name!r} is of another type")
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name; small letters, digits, '.', '_' and '-' make one")
        if self.file in ("", ".", "..") or "\\" in self.file:
            raise ValueError(f"the address of {self.name!r} names no file")

    @property
    def file(self) -> str:
        """Name of the file at its publisher."""
        return self.url.rpartition("/")[2]


def public_files(store: Path) -> dict[str, PublicFile]:
    """Return the public checkpoints by name: the shipped list, with what ``store`` knows better, such as digests.

    Raises:
        WeightsError: a list cannot be read.
    """
    tables = _tables(shipped_store())
    for name, table in _tables(store).items():
        tables[name] = {**tables.get(name, {}), **table}
    try:
        found = {name: PublicFile(name=name, **table) for name, table in tables.items()}
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the list of public checkpoints cannot be read: {plain(str(error))}") from error
    unknown = sorted({key for public in found.values() for key in public.clip} - set(CHANGES))
    if unknown:
        raise WeightsError(f"the list of public checkpoints cannot be read: unknown clip setting {unknown[0]!r}", allowed=CHANGES)
    return found


def find_public(store: Path, name: str) -> PublicFile:
    """Return one public checkpoint.

    Raises:
        UnknownModelError: no such name; the error lists what exists.
    """
    known = public_files(store)
    if name not in known:
        raise UnknownModelError("no public checkpoint of that name is listed", pointer="/name", allowed=sorted(known))
    return known[name]


def record_digest(store: Path, public: PublicFile, sha256: str) -> None:
    """Keep the digest of a file in the list of ``store``."""
    path = store / RECORDS
    tables: dict[str, Any] = _read(store)
    tables.setdefault(PUBLIC, {}).setdefault(public.name, {})["sha256"] = sha256
    store.mkdir(parents=True, exist_ok=True)
    replace_file(path, tomli_w.dumps(tables).encode())


def _tables(store: Path) -> dict[str, dict[str, Any]]:
    tables = _read(store).get(PUBLIC, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise WeightsError("the list of public checkpoints cannot be read: it is no table of tables")
    return {name: dict(table) for name, table in tables.items()}


def _read(store: Path) -> dict[str, Any]:
    path = store / RECORDS
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"the weights records cannot be read: {error}") from error
