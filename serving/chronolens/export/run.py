"""Export: write an artefact in a temporary place, prove that it answers as the network does, and only then put it where it belongs.

    STORE/exports/MODEL/KIND/manifest.json     what it is, see :mod:`chronolens.export.manifest`
    STORE/exports/MODEL/mar/MODEL.mar          kind ``mar``, for TorchServe
    STORE/exports/MODEL/onnx/model.onnx        kind ``onnx``
    STORE/exports/MODEL/torch-export/model.pt2 kind ``torch-export``
    STORE/exports/MODEL/triton/...             kind ``triton``, a model repository

An artefact that fails leaves nothing behind, and an earlier one stays as it was.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from chronolens.catalogue import Catalogue
from chronolens.errors import ExportError, OptionsError, WeightsError
from chronolens.export import mar, onnx_graph, parity, torch_export, triton
from chronolens.export.kind import Kind, Options, Subject
from chronolens.export.manifest import FILE, Golden, Manifest, MapFacts, ParityFacts, describe_files, read_manifest, write_manifest
from chronolens.export.recipe import recipe
from chronolens.golden import golden_frames
from chronolens.schemas import ClipSpecInfo
from chronolens.store import default_store
from chronolens.video.prepare import prepare

KINDS: dict[str, Kind] = {
    "mar": mar.MAR,
    "onnx": onnx_graph.ONNX,
    "torch-export": torch_export.TORCH_EXPORT,
    "triton": triton.TRITON,
}
GOLDEN_SEED = 0
_PACKAGES = ("chronolens", "torch", "numpy")


def export(kind: str, model: str, store: Path | None = None, out: Path | None = None) -> tuple[Path, Manifest]:
    """Write one artefact of one model, proven.

    Args:
        kind: one of ``KINDS``.
        model: name of weights in the store, or of an own model that a plugin brings.
        store: folder with ``weights.toml``; the shipped one when None.
        out: folder to write; ``STORE/exports/MODEL/KIND`` when None. An artefact that is there already is replaced as a whole.

    Returns:
        The folder and the manifest.

    Raises:
        OptionsError: no such kind, its packages are not installed, or ``out`` holds something else than an artefact.
        UnknownModelError, WeightsError: no such model, or its weights do not fit.
        ExportError: the artefact cannot be made, or does not answer as the network does.
    """
    if kind not in KINDS:
        raise OptionsError(f"There is no export {kind[:40]!r}.", pointer="/kind", allowed=list(KINDS))
    store = store or default_store()
    catalogue = Catalogue(store)
    record, network = catalogue.open(model)
    if not network.default_layers:
        raise ExportError(f"The model {record.name} names no layers, and an artefact has a heat map of one; name at least one.")
    folder = (out or store / "exports" / model / kind).resolve()
    _require_replaceable(folder)
    subject = Subject(record, network, store)
    # beside its place, so that it can be moved there by a rename
    with tempfile.TemporaryDirectory(prefix=".export-", dir=_existing(folder.parent)) as work:
        fresh = Path(work, "new")
        fresh.mkdir()
        options = KINDS[kind].write(subject, fresh)
        found = parity.measure(subject.network, KINDS[kind].load(subject, fresh), parity.probes(record.clip, len(record.classes)))
        found.require()
        manifest = _manifest(kind, subject, catalogue.digests()[record.name], options, found, fresh)
        write_manifest(manifest, fresh)
        _put(fresh, folder, Path(work, "old"))
    return folder, manifest


def _manifest(kind: str, subject: Subject, digest: str, options: Options, found: parity.Parity, folder: Path) -> Manifest:
    record, network, spec = subject.record, subject.network, subject.record.clip
    clip = torch.from_numpy(prepare(golden_frames(spec, GOLDEN_SEED), spec))
    with torch.no_grad():
        scores = torch.softmax(network(clip)[0].double(), dim=0)
    return Manifest(
        kind=kind,
        model=record.name,
        architecture=record.architecture,
        data_set=record.data_set,
        licence=record.licence,
        warnings=list(record.warnings),
        weights=record.sha256,
        record=digest,
        clip=ClipSpecInfo(**dataclasses.asdict(spec)),
        classes=list(record.classes),
        maps=[MapFacts(**dataclasses.asdict(one)) for one in onnx_graph.graph_maps(subject)],
        options=dict(options),
        packages=_versions((*_PACKAGES, *KINDS[kind].packages)),
        recipe=recipe(),
        parity=ParityFacts(**dataclasses.asdict(found)),
        golden=Golden(seed=GOLDEN_SEED, scores=scores.tolist()),
        files=describe_files(folder),
    )


def _versions(names: Sequence[str]) -> dict[str, str]:
    """Return versions of packages; ONNX Runtime has another name where it was built for graphics cards."""
    found: dict[str, str] = {}
    for name in names:
        for variant in (name, f"{name}-gpu"):
            with suppress(importlib.metadata.PackageNotFoundError):
                found.setdefault(name, importlib.metadata.version(variant))
    return found


def _require_replaceable(folder: Path) -> None:
    """Refuse a folder with anything in it that is not part of an artefact: replacing it would delete that."""
    if not folder.exists():
        return
    if folder.is_dir():
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        try:
            if not names or names <= {FILE, *read_manifest(folder).files}:
                return
        except WeightsError:
            pass  # no manifest, or none of ours: whose files these are is not known
    raise OptionsError("The folder to write holds other things than an artefact; choose another.", pointer="/out")


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _put(fresh: Path, folder: Path, old: Path) -> None:
    """Move a finished artefact to its place; should that fail, the earlier one goes back."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        fresh.rename(folder)
        return
    folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        old.rename(folder)
        raise
