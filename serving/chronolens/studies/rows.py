"""Findings kept in a file, one JSON object a line, so that a long study goes on where it was cut short."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from chronolens import __version__
from chronolens.engine import Engine
from chronolens.errors import OptionsError
from chronolens.explain.presets import PRESETS

Row = dict[str, Any]


def origin(engine: Engine, model: str) -> Row:
    """Return what decides the findings about a model: its weights, the precision, the mask presets and the version of this package."""
    presets = json.dumps({name: preset.to_json() for name, preset in PRESETS.items()}, sort_keys=True)
    return {
        "model": model,
        "weights": engine.load(model).record.sha256,
        "precision": engine.precision,
        "presets": hashlib.sha256(presets.encode()).hexdigest()[:12],
        "package": __version__,
    }


class Rows:
    """A file of findings that all have the same origin.

    The first line says what they were made with; a line that a kill left half-written is dropped.

    Args:
        path: the file, made when missing; None keeps findings in memory.
        made_with: model, weights digest and whatever else decides the findings.
        keys: fields that tell one row from another.

    Raises:
        OptionsError: the file holds findings of another origin, or something else.
    """

    def __init__(self, path: Path | None, made_with: Row, keys: tuple[str, ...]) -> None:
        self._path, self._keys = path, keys
        self._rows: dict[tuple[Any, ...], Row] = {}
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        whole = [line for line in lines if line.endswith("\n")]
        try:
            head, *rows = [json.loads(line) for line in whole] or [made_with]
            self._rows = {self._key(row): row for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise OptionsError(f"{path.name} is not a file of findings", pointer="/rows") from error
        if head != made_with:
            raise OptionsError(f"{path.name} holds findings of {head}; give another file", pointer="/rows")
        if len(whole) < max(len(lines), 1):
            path.write_text("".join(whole) or json.dumps(made_with) + "\n", encoding="utf-8")

    def get(self, *key: Any) -> Row | None:
        """Return a finding, None when it is not there."""
        return self._rows.get(key)

    def add(self, row: Row) -> Row:
        """Keep a finding; return it."""
        self._rows[self._key(row)] = row
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self._keys)
