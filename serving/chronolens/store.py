"""Where the weights lie. No torch: the gateway and the launchers of model servers ask it too."""

from __future__ import annotations

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
    """Return the SHA-256 of the weights of each model of a store, by name; nothing when it has no records.

    Raises:
        WeightsError: the records cannot be read.
    """
    path = store / RECORDS
    if not path.is_file():
        return {}
    try:
        return {name: str(table["sha256"]) for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items()}
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise WeightsError(f"the weights records cannot be read: {error}") from error
