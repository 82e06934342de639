"""Where the weights lie. No torch: the gateway and the launchers of model servers ask it too."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path

from chronolens.errors import WeightsError

RECORDS = "weights.toml"


def default_store() -> Path:
    """Return the folder of the shipped weights: ``CHRONOLENS_MODEL_STORE``, the one inside the wheel, or the one of the checkout."""
    named = os.environ.get("CHRONOLENS_MODEL_STORE")
    if named:
        return Path(named)
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
        return {name: hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest() for name, table in tables.items()}
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise WeightsError(f"the weights records cannot be read: {error}") from error
