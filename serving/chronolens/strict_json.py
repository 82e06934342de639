"""JSON as strangers send it: one object in plain UTF-8, every key once, no number that is none, and not too deep."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

_LONGEST_NUMBER = 40
Fault = Literal["syntax", "depth", "kind", "text"]


class StrictJsonError(Exception):
    """The text is refused. Whoever reads it for somebody turns this into an error of its own, in its own words.

    Args:
        fault: ``syntax``: it does not parse; ``depth``: it is nested too deeply; ``kind``: it is no object; ``text``: a text in it is no
            valid Unicode or holds NUL.
        detail: one sentence.
    """

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


def parse_object(text: bytes, deepest: int) -> dict[str, Any]:
    """Return the object that a text holds.

    Args:
        text: what was sent; the caller has limited its length.
        deepest: most arrays and objects inside one another.

    Raises:
        StrictJsonError: not plain UTF-8, a byte order mark, too deep, not JSON, keys twice, a number that is not finite or too long, no
            object, or text that cannot be written back.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError("syntax", "the JSON is not UTF-8") from error
    if decoded.startswith("\ufeff"):
        raise StrictJsonError("syntax", "the JSON begins with a byte order mark")
    if _depth(decoded) > deepest:
        raise StrictJsonError("depth", "the JSON is nested too deeply")
    hooks: dict[str, Any] = {"parse_constant": _refuse_constant, "parse_float": _finite, "parse_int": _short_integer}
    try:
        value = json.loads(decoded, object_pairs_hook=_unique, **hooks)
    except ValueError as error:
        raise StrictJsonError("syntax", "the text is no valid JSON") from error
    if not isinstance(value, dict):
        raise StrictJsonError("kind", "the JSON must be an object")
    check_texts(value)
    return value


def check_texts(value: Any) -> None:
    """Refuse lone surrogates and NUL anywhere: they cannot be written back in an answer or stored.

    Raises:
        StrictJsonError: there is one (``text``).
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            check_texts(key)
            check_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            check_texts(inner)
    elif isinstance(value, str) and any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
        raise StrictJsonError("text", "a text in the JSON is no valid Unicode or holds NUL")


def _depth(text: str) -> int:
    """Return the deepest nesting, without recursion; brackets inside strings do not count."""
    depth = deepest = 0
    inside = escaped = False
    for char in text:
        if inside:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                inside = False
        elif char == '"':
            inside = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StrictJsonError("syntax", "a key comes twice in the JSON")
    return found


def _refuse_constant(_name: str) -> Any:
    raise StrictJsonError("syntax", "NaN and Infinity are no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictJsonError("syntax", "a number is too large")
    return value


def _short_integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise StrictJsonError("syntax", "a number is too long")
    return int(text)
