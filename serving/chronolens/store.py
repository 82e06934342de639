"""Where the weights lie. No torch: the gateway and the launchers of model servers ask it too."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import tomllib
from pathlib import Path

from chronolens.errors import WeightsError

RECORDS = "weights.toml"
PUBLIC = "public"
"""The table of the records that lists public checkpoints; it is no model."""


def default_store() -> Path:
    """Return the folder of the shipped weights: ``CHRONOLENS_MODEL_STORE``, the one inside the wheel, or the one of the checkout."""
    named = os.environ.get("CHRONOLENS_MODEL_STORE")
    return Path(named) if named else shipped_store()


def shipped_store() -> Path:
    """Return the folder of the shipped weights, whatever the environment says: the one inside the wheel, or the one of the checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "model_store"
    return inside if inside.is_dir() else package.parents[1] / "model_store"


def digests(store: Path) -> dict[str, str]:
    """Return the SHA-256 of the record of each model of a store, by name; nothing when it has no records.

    A record names its weights by their digest, and all else that goes into an artefact: labels, preparation, licence, warnings.

    Raises:
        WeightsError: the records cannot be read.
    """
    path = store / RECORDS
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        models = {name: table for name, table in tables.items() if name != PUBLIC}
        return {name: hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest() for name, table in models.items()}
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise WeightsError(f"the weights records cannot be read: {error}") from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def replace_file(path: Path, body: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, and a crash leaves one of them."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
        try:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(stream.name, 0o644)  # a temporary file is private, a store is read by other processes
            os.replace(stream.name, path)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise
