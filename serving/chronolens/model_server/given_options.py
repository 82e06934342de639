"""The options that come with a raw clip: strict JSON, checked by the library's own option types."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from chronolens.errors import ClipTooLargeError, OptionsError, UnknownModelError
from chronolens.options import PredictionOptions
from chronolens.strict_json import Fault, StrictJsonError, parse_object

MOST_BYTES = 64 * 1024
_DEEPEST = 32
_CODES = {"extra_forbidden": "unknown-field", "missing": "missing-field", "literal_error": "invalid-choice"}
_SAID: dict[Fault, str] = {
    "syntax": "the options are no valid JSON",
    "depth": "the options are nested too deeply",
    "kind": "the options must be a JSON object",
    "text": "a text in the options is no valid Unicode or holds NUL",
}
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
        return parse_object(text, _DEEPEST)
    except StrictJsonError as error:
        code = "invalid-text" if error.fault == "text" else "malformed-json"
        raise OptionsError(_SAID[error.fault], code=code) from error
