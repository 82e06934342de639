"""The options of a request: strict JSON, or plain form fields for one-line calls, checked by the library's own option types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chronolens.errors import ChronolensError, OptionsError, UnknownModelError
from chronolens.options import PredictionOptions
from chronolens.schemas import ModelInfo, ProblemEntry
from chronolens.strict_json import StrictJsonError, check_texts, parse_object
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
        return parse_object(text, limits.json_depth)
    except StrictJsonError as error:
        raise _refused(error, limits) from error


def _refused(error: StrictJsonError, limits: Limits) -> ChronolensError:
    if error.fault == "text":
        return OptionsError(error.detail, code="invalid-text")
    return RequestError(error.detail, code="malformed-json", limit=limits.json_depth if error.fault == "depth" else None)


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
    try:
        check_texts(value)
    except StrictJsonError as error:
        raise OptionsError(error.detail, code="invalid-text") from error
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
