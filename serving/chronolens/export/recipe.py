"""By what an artefact is made: a digest of the code that decides what is in it. No torch."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def handlers() -> Path:
    """Return the folder of the handlers: the one inside the wheel, or the one of the checkout."""
    inside = _PACKAGE / "handlers"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "handlers"


@cache
def recipe() -> str:
    """Return the SHA-256 over exporters, networks, heat maps, preparation and handlers: other code makes artefacts stale."""
    digest = hashlib.sha256()
    for folder in (*(_PACKAGE / name for name in ("export", "models", "explain", "video")), handlers()):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
