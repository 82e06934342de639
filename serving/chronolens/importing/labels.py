"""Reads the names of classes: JSON as the data sets publish them, or text, one name a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chronolens.errors import WeightsError

LARGEST = 2**20
"""Bytes of a file of class names."""


def read_labels(path: Path, count: int) -> tuple[str, ...]:
    """Return class names in index order.

    Args:
        path: a JSON list, a JSON object from name to index or from index to name, or text with one name a line.
        count: number of classes of the network.

    Raises:
        WeightsError: the file cannot be read, or does not name each class once, by another name than all others.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise WeightsError("the file of class names is missing or too large")
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = (
            _from_json(json.loads(text, object_pairs_hook=_object))
            if text.lstrip()[:1] in ("[", "{")
            else [line for line in text.splitlines() if line.strip()]
        )
    except (UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"the class names cannot be read: {error}") from error
    names = [name.strip().strip('"').strip() for name in names]
    if len(names) != count or not all(names):
        raise WeightsError(f"the file names {len(names)} classes, the network has {count}", limit=count, observed=len(names))
    twice = next((name for position, name in enumerate(names) if name in names[:position]), None)
    if twice is not None:
        raise WeightsError(f"the class name {twice!r} comes twice")
    return tuple(names)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name or an index comes twice")
    return content


def _from_json(content: Any) -> list[str]:
    if isinstance(content, dict):
        pairs = [(name, index) for name, index in content.items()]
        if all(name.isdecimal() for name in content) and not all(str(index).isdecimal() for index in content.values()):
            pairs = [(name, index) for index, name in pairs]
        by_index = {_index(index): name for name, index in pairs}
        if sorted(by_index) != list(range(len(pairs))):
            raise ValueError("indices do not count from 0 without gaps")
        content = [by_index[index] for index in range(len(pairs))]
    if not all(isinstance(name, str) for name in content):
        raise TypeError("not all class names are text")
    return list(content)


def _index(value: Any) -> int:
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.isdecimal())):
        raise TypeError(f"the index {value!r} is no whole number")
    return int(value)
