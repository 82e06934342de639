"""What every launcher does before it starts a server: see to it that its artefacts are there, and fresh."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from chronolens import plugin_names
from chronolens.errors import WeightsError
from chronolens.export.manifest import check_files, read_manifest
from chronolens.export.recipe import recipe
from chronolens.store import digests
from chronolens_gateway.doctor.ask import NoAnswerError, probe

_COMMAND = "from chronolens.cli import main; main()"
_IMPORT_S = 600.0
"""Own models may be large, and the machine busy."""


def records(store: Path) -> dict[str, str]:
    """Return the digest of the record of each model of a store and of plugins by name, see :func:`chronolens.store.digests`.

    Plugins are imported in a process of its own, because that loads PyTorch.

    Raises:
        WeightsError: the records of the store cannot be read, or a plugin is written wrongly.
        NoAnswerError: a plugin does not bring what it has to.
    """
    if not plugin_names.named():
        return digests(store)
    known: dict[str, str] = probe("records", "--store", str(store.absolute()), timeout_s=_IMPORT_S)["records"]
    return known


def ensure(kind: str, store: Path, exports: Path, models: list[str] | None = None) -> list[str]:
    """Export what is missing, damaged, or made of another record or by another version; return the names of all models.

    Args:
        kind: as for ``chronolens export``.
        store: model store.
        exports: where artefacts are kept, as ``MODEL/KIND``.
        models: names; all of the store and of plugins when None.

    Raises:
        SystemExit: there are no models, no such model, or it could not be exported.
    """
    try:
        known = records(store)
    except NoAnswerError as error:
        raise SystemExit(str(error)) from error
    names = list(known) if models is None else models
    if not names or set(names) - known.keys():
        raise SystemExit(f"the model store {store} has no such models; set CHRONOLENS_MODEL_STORE to a folder with weights.toml")
    for name in names:
        if not current(exports / name / kind, known[name]):
            _export(kind, name, store, exports / name / kind)
    return names


def current(folder: Path, record: str) -> bool:
    """Tell whether an artefact is there, whole, and made of this record by this version and by the exporters as they are."""
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest)
    except WeightsError:
        return False
    return (manifest.record, manifest.packages.get("chronolens"), manifest.recipe) == (record, version("chronolens"), recipe())


def _export(kind: str, name: str, store: Path, out: Path) -> None:
    """Export in a process of its own, which loads PyTorch; on a leash, so that it does not outlive this one."""
    leash = [sys.executable, "-m", "chronolens.leash", str(os.getpid())]
    arguments = ["export", kind, name, "--store", str(store.absolute()), "--out", str(out.absolute())]
    if subprocess.run([*leash, sys.executable, "-c", _COMMAND, *arguments], stdout=sys.stderr).returncode:
        raise SystemExit(f"the {kind} artefact of {name} could not be made")
