"""What the OpenAPI document says beyond the signatures: every refusal as a problem, and the multipart body."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from chronolens import __version__
from chronolens.schemas import Problem
from chronolens_gateway.errors import MEDIA_TYPE

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_TEXTS = {
    400: "The bytes do not parse.",
    404: "There is no such thing.",
    405: "Not with this method.",
    409: "Not in this state.",
    410: "It has been removed.",
    413: "Too many bytes.",
    415: "This kind is not supported.",
    416: "The range lies outside the file.",
    422: "It parses, but cannot be used.",
    500: "The service failed.",
    503: "The service cannot answer now.",
    504: "The answer would have come too late.",
}
UPLOAD = (400, 413, 415, 422, 503)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` entry of a route that can refuse with these statuses (and 400, 500 as every route)."""
    return {status: {"model": Problem, "description": _TEXTS[status]} for status in sorted({400, 500, *statuses})}


def upload_body(options: str, fields: tuple[str, ...]) -> dict[str, Any]:
    """Return the ``openapi_extra`` entry of a route that takes a clip.

    Args:
        options: name of the schema of the part ``options``.
        fields: plain form fields that may be sent instead.
    """
    properties: dict[str, Any] = {
        "clip": {"type": "string", "format": "binary", "description": "The video file; its name is ignored."},
        "options": {"$ref": f"#/components/schemas/{options}"},
        **{name: {"type": "string", "description": f"Instead of `{name}` in the options."} for name in fields},
    }
    schema = {"type": "object", "required": ["clip"], "properties": properties, "additionalProperties": False}
    encoding = {"options": {"contentType": "application/json"}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema, "encoding": encoding}}}}


def describe(app: FastAPI, extra_models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the application's OpenAPI document.

    Args:
        extra_models: JSON schemas that only multipart bodies refer to, by name.
    """
    document = get_openapi(title="chronolens", version=__version__, summary=app.summary, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in extra_models.items():
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    response["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}
                    response["description"] = _TEXTS[int(status)]
    return document
