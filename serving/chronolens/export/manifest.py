"""``manifest.json``: what an artefact was made of, how, and what it has to answer to the golden clip."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from chronolens.errors import WeightsError
from chronolens.schemas import Cells, ClipSpecInfo

FILE = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FileFacts(_Part):
    """Size and SHA-256 of one file of the artefact."""

    bytes: int
    sha256: str


class ParityFacts(_Part):
    """As measured when the artefact was made, see :class:`chronolens.export.parity.Parity`."""

    clips: int
    max_logit_difference: float
    same_class: bool
    max_heat_map_difference: float


class Golden(_Part):
    """Softmax probabilities (K,) that the float32 network gives the golden clip of this seed."""

    seed: int
    scores: list[float]


class MapFacts(_Part):
    """One heat map, see :class:`chronolens.models.onnx_network.GraphMap`; ``output`` is its name in a graph."""

    layer: str
    output: str
    cells: Cells
    pathway: str | None
    stage: str | None


class Manifest(_Part):
    """Everything that serving an artefact needs, beside its files.

    Args:
        format: of this file; a reader refuses one it does not know.
        kind: ``onnx``, ``torch-export``, ...
        model, architecture, data_set, licence, warnings: as in the weights record.
        weights: SHA-256 of the weights.
        record: SHA-256 of the whole weights record, see :meth:`chronolens.catalogue.Catalogue.digests`.
        clip: how clips are sampled, sized and normalised.
        classes: labels in index order.
        maps: the heat maps that the artefact gives: those of the network's default layers.
        options: what decided how the artefact was written.
        packages: versions that wrote it.
        recipe: digest of the code that wrote it, see :mod:`chronolens.export.recipe`.
        parity: what was proven.
        golden: what it has to answer.
        files: by their names, ``/`` between folders; the manifest itself is not among them.
    """

    format: Literal[2] = 2
    kind: str
    model: str
    architecture: str
    data_set: str
    licence: str
    warnings: list[str]
    weights: str
    record: str
    clip: ClipSpecInfo
    classes: list[str]
    maps: list[MapFacts]
    options: dict[str, Any]
    packages: dict[str, str]
    recipe: str
    parity: ParityFacts
    golden: Golden
    files: dict[str, FileFacts]


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest with sorted keys, so that equal manifests are equal bytes."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of an artefact.

    Raises:
        WeightsError: it is missing, no JSON, of another format, or a field is unknown, missing or of a wrong type.
    """
    try:
        return Manifest.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        raise WeightsError("the artefact has no manifest") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise WeightsError(f"the manifest of the artefact cannot be read: {where[:80] or 'JSON'}: {first['msg'][:120]}") from error


def describe_files(folder: Path) -> dict[str, FileFacts]:
    """Return size and digest of every file below a folder, except the manifest, by name."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: _facts(folder / name) for name in names if name != FILE}


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise WeightsError unless every file that the manifest lists is there as it was written."""
    for name, facts in manifest.files.items():
        path = folder / name
        if not path.is_file() or _facts(path) != facts:
            raise WeightsError(f"the file {name[:80]} of the artefact of {manifest.model} is missing or not as it was written")


def _facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        return FileFacts(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
