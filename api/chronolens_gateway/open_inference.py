"""The Open Inference Protocol (KServe v2, with Triton's binary extension): bodies read and written. One clip a request.

The clip is an input ``clip`` of BYTES; in plain JSON, whose strings hold no arbitrary bytes, it is base64 with the parameter
``content_type`` ``base64``. Answers are ``scores`` (1, K), and the ``top_k`` best classes as ``class_index`` and ``label`` (1, top_k).
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from anyio import to_thread
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from chronolens.errors import ClipTooLargeError, OptionsError, UnusableClipError
from chronolens.schemas import ModelInfo, PredictionResult
from chronolens_gateway.errors import RequestError, UnsupportedBodyError
from chronolens_gateway.limits import Limits
from chronolens_gateway.parameters import strict_json

HEAD_LENGTH = "inference-header-content-length"
_LENGTH = struct.Struct("<I")
_OUTPUTS = {"scores": "FP32", "class_index": "INT64", "label": "BYTES"}
_DTYPES: dict[str, Any] = {"FP32": np.float32, "INT64": np.int64}
_RESERVED = frozenset({"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"})
"""Parameters of the protocol itself, which mean nothing here or are read elsewhere."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Input(_Part):
    name: Literal["clip"]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1)]], Field(min_length=1, max_length=2)]
    datatype: Literal["BYTES"]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Output(_Part):
    name: Literal["scores", "class_index", "label"]
    parameters: dict[str, Any] = {}


class _Head(_Part):
    id: Annotated[str, Field(max_length=200)] = ""
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[_Output], Field(max_length=len(_OUTPUTS))] = []
    parameters: dict[str, Any] = {}


@dataclass(frozen=True)
class Inference:
    """One request: where the clip lies, its size, the options it brought and how it wants its answer."""

    clip: Path
    clip_bytes: int
    options: dict[str, Any]
    id: str
    outputs: dict[str, bool]
    """Names of the outputs wanted, and whether in binary."""


@asynccontextmanager
async def received_inference(request: Request, folder: Path, limits: Limits) -> AsyncIterator[Inference]:
    """Receive a request; its clip exists while the context lasts.

    Raises:
        UnsupportedBodyError, RequestError, OptionsError, ClipTooLargeError, UnusableClipError: it is compressed, malformed, asks for what
            there is not, or is too large.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedBodyError("the body must not be compressed", code="unsupported-encoding")
    length = _head_length(request, limits)
    with tempfile.TemporaryDirectory(dir=folder) as private:
        path = Path(private) / "clip"
        head_bytes, tail_bytes = await _receive(request, path, length, limits)
        head = _read_head(head_bytes, limits)
        await to_thread.run_sync(_place_clip, head.inputs[0], path, tail_bytes, limits)
        size = path.stat().st_size
        if size == 0:
            raise UnusableClipError("the clip is empty", code="empty-file")
        options = {name: value for name, value in head.parameters.items() if name not in _RESERVED}
        yield Inference(path, size, options, head.id, _wanted(head))


def _head_length(request: Request, limits: Limits) -> int | None:
    """Return how many bytes of JSON come before the binary part; None when the body is all JSON."""
    text = request.headers.get(HEAD_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= limits.text_part_bytes):
        detail = f"{HEAD_LENGTH} must be a number of bytes, at most {limits.text_part_bytes}"
        raise RequestError(detail, code="malformed-header", limit=limits.text_part_bytes)
    return int(text)


async def _receive(request: Request, path: Path, length: int | None, limits: Limits) -> tuple[bytes, int]:
    """Return the JSON and the number of bytes after it, which go to ``path``. After too many the rest is left unread."""
    head, received = bytearray(), 0
    with path.open("wb") as file:
        try:
            async for chunk in request.stream():
                rest = chunk
                if length is None or len(head) < length:
                    take = len(chunk) if length is None else length - len(head)
                    head += chunk[:take]
                    rest = chunk[take:]
                received += len(rest)
                if received > limits.clip_bytes + _LENGTH.size:
                    raise ClipTooLargeError("the clip has too many bytes", limit=limits.clip_bytes)
                if len(head) > limits.json_bytes:
                    detail = "the JSON is too long; send the clip with the binary extension"
                    raise ClipTooLargeError(detail, limit=limits.json_bytes)
                if rest:
                    await to_thread.run_sync(file.write, rest)
        except ClientDisconnect as error:
            raise RequestError("the body ended early", code="aborted") from error
    if length is not None and len(head) < length:
        raise RequestError(f"the body is shorter than {HEAD_LENGTH} says", code="malformed-body")
    return bytes(head), received


def _read_head(text: bytes, limits: Limits) -> _Head:
    given = strict_json(text, limits)
    try:
        return _Head.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        pointer = "".join(f"/{str(part)[:60]}" for part in first["loc"])
        detail = f"{pointer or 'the request'}: {first['msg']}; it takes one input, clip, of BYTES and shape [1]"
        raise OptionsError(detail, code="invalid-inference-request", pointer=pointer or "/") from error


def _place_clip(given: _Input, path: Path, tail_bytes: int, limits: Limits) -> None:
    """Leave nothing but the clip's own bytes in the file."""
    size = given.parameters.get("binary_data_size")
    if size is None:
        path.write_bytes(_from_json(given, tail_bytes, limits))
        return
    with path.open("r+b") as file:
        prefix = file.read(_LENGTH.size)
        whole = len(prefix) == _LENGTH.size and _LENGTH.unpack(prefix)[0] + _LENGTH.size == tail_bytes == size
        if not whole or given.data is not None:
            raise RequestError("the binary part is not one BYTES element of the length that the request tells", code="malformed-body")
        while chunk := file.read(1 << 20):  # moved to the front in place: a clip may be larger than there is memory to spare
            here = file.tell()
            file.seek(here - len(chunk) - _LENGTH.size)
            file.write(chunk)
            file.seek(here)
        file.truncate(tail_bytes - _LENGTH.size)


def _from_json(given: _Input, tail_bytes: int, limits: Limits) -> bytes:
    text = given.data[0] if given.data is not None and len(given.data) == 1 else None
    if tail_bytes or not isinstance(text, str):
        raise OptionsError("the input clip needs one element of data", code="invalid-inference-request", pointer="/inputs/0/data")
    if given.parameters.get("content_type") != "base64":
        detail = "JSON holds no bytes: send base64 with the parameter content_type base64, or use the binary extension"
        raise OptionsError(detail, code="invalid-inference-request", pointer="/inputs/0/parameters/content_type", allowed=["base64"])
    try:
        clip = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise OptionsError("the data of the input clip is no base64", code="invalid-inference-request", pointer="/inputs/0/data") from error
    if len(clip) > limits.clip_bytes:
        raise ClipTooLargeError("the clip has too many bytes", limit=limits.clip_bytes)
    return clip


def _wanted(head: _Head) -> dict[str, bool]:
    binary = head.parameters.get("binary_data_output") is True
    if not head.outputs:
        return dict.fromkeys(_OUTPUTS, binary)
    return {output.name: output.parameters.get("binary_data", binary) is True for output in head.outputs}


def answer(inference: Inference, info: ModelInfo, result: PredictionResult, top_k: int) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the answer, from the prediction of all classes."""
    best = result.predictions[:top_k]
    values: dict[str, list[Any]] = {
        "scores": [entry.score for entry in sorted(result.predictions, key=lambda entry: entry.class_index)],
        "class_index": [entry.class_index for entry in best],
        "label": [entry.label for entry in best],
    }
    outputs, tail = [], b""
    for name, binary in inference.outputs.items():
        output: dict[str, Any] = {"name": name, "shape": [1, len(values[name])], "datatype": _OUTPUTS[name]}
        if binary:
            data = _packed(values[name], _OUTPUTS[name])
            output["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            output["data"] = values[name]
        outputs.append(output)
    document = {"model_name": info.name, "model_version": "1", "id": inference.id, "outputs": outputs}
    head = json.dumps(document).encode()
    if not any(inference.outputs.values()):
        return head, {"Content-Type": "application/json"}
    return head + tail, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}


def metadata(info: ModelInfo) -> dict[str, Any]:
    """Return what the protocol tells of a model."""
    shapes = {"scores": [1, len(info.classes)], "class_index": [1, -1], "label": [1, -1]}
    return {
        "name": info.name,
        "versions": ["1"],
        "platform": f"chronolens_{info.backend}",
        "inputs": [{"name": "clip", "datatype": "BYTES", "shape": [1]}],
        "outputs": [{"name": name, "datatype": kind, "shape": shapes[name]} for name, kind in _OUTPUTS.items()],
    }


def _packed(values: list[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in (value.encode() for value in values))
    return np.asarray(values, _DTYPES[datatype]).tobytes()
