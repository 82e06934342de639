"""The options of a request: strict JSON, or plain form fields for one-line calls, checked by the library's own option types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chronolens.errors import OptionsError, UnknownModelError
from chronolens.options import PredictionOptions
from chronolens.schemas import ModelInfo, ProblemEntry
from chronolens_gateway.errors import InvalidOptionsError, RequestError
from chronolens_gateway.limits import Limits

OPTIONS = "options"
FIELDS = ("model", "methods", "target", "true_class", "top_k")
_LONGEST_NUMBER = 40
_MOST_ENTRIES = 20
O = TypeVar("O", bound=PredictionOptions)  # noqa: E741


def strict_json(text: bytes, limits: Limits) -> dict[str, Any]:
    """Return the object that a text holds.

    Raises:
        RequestError: not plain UTF-8, not JSON, keys twice, too deep, NaN, or no object (``malformed-json``).
        OptionsError: a text in it is no valid Unicode.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("the JSON is not UTF-8") from error
    if decoded.startswith("\ufeff"):
        raise _malformed("the JSON begins with a byte order mark")
    if _depth(decoded) > limits.json_depth:
        raise RequestError("the JSON is nested too deeply", code="malformed-json", limit=limits.json_depth)
    try:
        value = json.loads(
            decoded, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_short_integer
        )
    except ValueError as error:
        raise _malformed("the text is no valid JSON") from error
    if not isinstance(value, dict):
        raise _malformed("the JSON must be an object")
    _check_texts(value)
    return value


def _malformed(detail: str) -> RequestError:
    return RequestError(detail, code="malformed-json")


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
        raise _malformed("a key comes twice in the JSON")
    return found


def _refuse_constant(_name: str) -> Any:
    raise _malformed("NaN and Infinity are no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _malformed("a number is too large")
    return value


def _short_integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise _malformed("a number is too long")
    return int(text)


def _check_texts(value: Any) -> None:
    """Refuse lone surrogates and NUL anywhere: they cannot be written back in an answer or stored."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_texts(key)
            _check_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner)
    elif isinstance(value, str) and any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
        raise OptionsError("a text in the JSON is no valid Unicode or holds NUL", code="invalid-text")


def read_options(kind: type[O], texts: Mapping[str, bytes], limits: Limits) -> O:
    """Return the checked options of a form's text parts.

    Raises:
        RequestError: the JSON does not parse.
        OptionsError: it does, but names, types or ranges are wrong.
    """
    given = strict_json(texts[OPTIONS], limits) if OPTIONS in texts else {}
    for name in FIELDS:
        if name not in texts:
            continue
        if name in given:
            raise OptionsError(f"{name} is given twice, in the options and as a field", code="conflicting-option", pointer=f"/{name}")
        given[name] = _plain(name, texts[name])
    return checked(kind, given)


def checked(kind: type[O], given: dict[str, Any]) -> O:
    """Return options from values by name.

    Raises:
        OptionsError: names, types or ranges are wrong.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _invalid(error, given, kind) from error


def _plain(name: str, text: bytes) -> Any:
    try:
        value = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the field {name} is not UTF-8", code="malformed-field") from error
    _check_texts(value)
    if name == "methods":
        return [method.strip() for method in value.split(",")]
    # A class index or a count; a label that is a number can be given in the JSON options.
    numeric = name in ("target", "true_class", "top_k") and value.isascii() and value.isdigit() and len(value) < _LONGEST_NUMBER
    return int(value) if numeric else value


_CODES = {"extra_forbidden": "unknown-field", "missing": "missing-field", "literal_error": "invalid-choice"}
_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_LIMITS = ("gt", "ge", "lt", "le", "max_length", "min_length")


def _invalid(error: ValidationError, given: Any, kind: type[BaseModel]) -> InvalidOptionsError:
    entries: dict[str, ProblemEntry] = {}
    limit = observed = None
    for one in error.errors(include_url=False):
        pointer = _pointer(one["loc"], given, one["type"])
        if pointer in entries or len(entries) >= _MOST_ENTRIES:
            continue
        if not entries:
            limit, observed = _numbers(one)
        entries[pointer] = ProblemEntry(code=_code(one["type"]), detail=_detail(one, pointer, kind), pointer=pointer)
    first = next(iter(entries.values()))
    return InvalidOptionsError(first.detail, list(entries.values()), limit=limit, observed=observed)


def _code(kind: str) -> str:
    if kind in _RANGES or kind in ("too_long", "too_short", "string_too_long", "string_too_short"):
        return "out-of-range"
    return _CODES.get(kind, "invalid-option")


def _detail(one: Any, pointer: str, kind: type[BaseModel]) -> str:
    if one["type"] == "extra_forbidden":
        known = f"; known: {', '.join(list(kind.model_fields)[:20])}" if pointer.count("/") == 1 else ""
        return f"there is no such option{known}"
    where = pointer.removeprefix("/").replace("/", ".") or "the options"
    if one["type"] == "missing":
        return f"{where} is required"
    if pointer in ("/target", "/true_class") and not one["type"].startswith(_RANGES):
        return f"{where} should be a class index or a label"
    message = str(one["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{where}: {message}" if one["type"] == "value_error" else f"{where} should be {message}"


def _numbers(one: Any) -> tuple[float | None, float | None]:
    """Return the limit that was passed and the value that passed it, where both are numbers."""
    context, value = one.get("ctx", {}), one.get("input")
    limit = next((float(context[name]) for name in _LIMITS if isinstance(context.get(name), int | float)), None)
    known = limit is not None and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return limit, float(value) if known and value is not None else None


def _pointer(location: Sequence[int | str], given: Any, kind: str) -> str:
    """Return the JSON pointer of an error, without the names that the checker gives to alternatives of a union."""
    parts: list[str] = []
    here = given
    for part in location:
        if isinstance(here, dict) and part in here:
            here = here[str(part)]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        elif kind != "missing" or part != location[-1]:
            break
        parts.append(str(part)[:60].replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def find_model(models: Sequence[ModelInfo], name: str, pointer: str | None = "/model") -> ModelInfo:
    """Return one model by name.

    Raises:
        UnknownModelError: it is not served; the error lists those that are.
    """
    for model in models:
        if model.name == name:
            return model
    raise UnknownModelError("no model of that name is served", pointer=pointer, allowed=[model.name for model in models])
