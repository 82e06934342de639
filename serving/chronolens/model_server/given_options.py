"""The options that come with a raw clip: strict JSON, checked by the library's own option types."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from chronolens.errors import ClipTooLargeError, OptionsError, UnknownModelError
from chronolens.options import PredictionOptions

MOST_BYTES = 64 * 1024
_LONGEST_NUMBER = 40
_DEEPEST = 32
_CODES = {"extra_forbidden": "unknown-field", "missing": "missing-field", "literal_error": "invalid-choice"}
_RANGES = ("greater_than", "less_than", "too_", "string_too_")
O = TypeVar("O", bound=PredictionOptions)  # noqa: E741


def read_options(kind: type[O], text: bytes, model: str) -> O:
    """Return the checked options of a request to a server of one model.

    Args:
        kind: type of the options.
        text: JSON object; ``model`` may be left out.
        model: name of the served model.

    Raises:
        OptionsError: ``malformed-json``, or a name, a type or a range is wrong.
        UnknownModelError: another model is asked for.
    """
    given = {"model": model, **strict_json(text)}
    if given["model"] != model:
        raise UnknownModelError("no model of that name is served here", pointer="/model", allowed=[model])
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        pointer = "".join(f"/{str(part)[:60].replace('~', '~0').replace('/', '~1')}" for part in first["loc"])
        wrong = first["type"]
        code = "out-of-range" if wrong.startswith(_RANGES) else _CODES.get(wrong, "invalid-option")
        raise OptionsError(f"{pointer or 'the options'}: {first['msg']}", code=code, pointer=pointer) from error


def strict_json(text: bytes) -> dict[str, Any]:
    """Return the object that a text holds.

    Raises:
        ClipTooLargeError: more than :data:`MOST_BYTES`.
        OptionsError: not plain UTF-8, not JSON, keys twice, too deep, a number that is not finite, or no object (``malformed-json``); text
            that is no valid Unicode (``invalid-text``).
    """
    if len(text) > MOST_BYTES:
        raise ClipTooLargeError("the part options is too long", limit=MOST_BYTES, observed=len(text))
    try:
        hooks: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite, "parse_int": _short}
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, **hooks)
    except (ValueError, RecursionError) as error:
        raise _malformed("the options are no valid JSON") from error
    if not isinstance(value, dict):
        raise _malformed("the options must be a JSON object")
    _check(value, _DEEPEST)
    return value


def _malformed(detail: str) -> OptionsError:
    return OptionsError(detail, code="malformed-json")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _short(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return int(text)


def _check(value: Any, depth: int) -> None:
    """Refuse nesting beyond ``depth``, and lone surrogates and NUL anywhere: they cannot be written back in an answer."""
    if depth < 0:
        raise _malformed("the options are nested too deeply")
    if isinstance(value, str) and any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
        raise OptionsError("a text in the options is no valid Unicode or holds NUL", code="invalid-text")
    if isinstance(value, dict):
        for key in value:
            _check(key, depth)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _check(inner, depth - 1)
