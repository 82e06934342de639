"""Read one multipart/form-data body as a stream: the clip goes to disk, everything else stays small, file names are ignored."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from chronolens.errors import ChronolensError, ClipTooLargeError, UnusableClipError
from chronolens_gateway.errors import BodyTooLargeError, FormError, RequestError, UnsupportedBodyError
from chronolens_gateway.limits import Limits

CLIP = "clip"
_BATCH_BYTES = 256 * 1024
_MAX_HEADERS = 16
_PLAIN_ENCODINGS = frozenset({"", "binary", "7bit", "8bit"})


@dataclass
class Form:
    """One received form: where the clip lies, its size, and the text parts as bytes by name."""

    clip: Path
    clip_bytes: int = 0
    texts: dict[str, bytes] = field(default_factory=dict)


class _Reader:
    """Callbacks of the streaming parser; runs outside the event loop."""

    def __init__(self, boundary: bytes, clip: Path, allowed: frozenset[str], limits: Limits) -> None:
        self.form = Form(clip)
        self._allowed = allowed
        self._limits = limits
        self._file: IO[bytes] | None = None
        self._names: set[str] = set()
        self._name: str | None = None
        self._parts = 0
        self._wrong: FormError | None = None
        self._headers: dict[str, bytes] = {}
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._header_bytes = 0
        self.ended = False
        callbacks: Any = {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header_data(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._header_data(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }
        size = limits.part_header_bytes
        self._parser = MultipartParser(boundary, callbacks, max_header_count=_MAX_HEADERS, max_header_size=size)

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise RequestError("the body is no well-formed multipart/form-data", code="malformed-multipart") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def finish(self) -> Form:
        self.close()
        if not self.ended:
            raise RequestError("the multipart body ends before its last boundary", code="malformed-multipart")
        if self._wrong is not None:
            raise self._wrong
        if CLIP not in self._names:
            raise FormError("the form needs a part named clip, the video file", code="missing-part", part=CLIP)
        if self.form.clip_bytes == 0:
            raise UnusableClipError("the clip is empty", code="empty-file")
        return self.form

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._limits.parts:
            raise RequestError("the form has too many parts", code="too-many-parts", limit=self._limits.parts)
        self._headers, self._header_bytes = {}, 0

    def _header_data(self, half: int, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > self._limits.part_header_bytes:
            limit = self._limits.part_header_bytes
            raise RequestError("the headers of a part are too long", code="malformed-multipart", limit=limit)
        self._header[half].extend(data)

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[name.decode("latin-1").lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition", b"").decode("latin-1"))
        if kind != b"form-data" or b"name" not in options:
            raise RequestError("a part has no name", code="malformed-multipart")
        encoding = self._headers.get("content-transfer-encoding", b"").decode("latin-1").strip().lower()
        nested = self._headers.get("content-type", b"").lower().startswith(b"multipart/")
        if encoding not in _PLAIN_ENCODINGS or nested:
            raise RequestError("parts must be plain, neither nested nor encoded", code="malformed-multipart")
        self._begin(options[b"name"].decode("utf-8", errors="replace"))

    def _begin(self, name: str) -> None:
        """Begin a part; one that may not be there is passed over, and told once the whole form is known to be well-formed."""
        self._name = None
        if name not in self._allowed:
            known = ", ".join(sorted(self._allowed))
            self._wrong = self._wrong or FormError(f"parts may be named {known}", code="unknown-part", part="other")
            return
        if name in self._names:
            self._wrong = self._wrong or FormError(f"the part {name} comes twice", code="duplicate-part", part=name)
            return
        self._names.add(name)
        self._name = name
        if name == CLIP:
            self._file = self.form.clip.open("wb")
        else:
            self.form.texts[name] = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            return
        if self._name == CLIP and self._file is not None:
            self.form.clip_bytes += end - start
            if self.form.clip_bytes > self._limits.clip_bytes:
                raise ClipTooLargeError("the clip has too many bytes", limit=self._limits.clip_bytes)
            self._file.write(data[start:end])
            return
        text = self.form.texts[self._name] + data[start:end]
        if len(text) > self._limits.text_part_bytes:
            raise BodyTooLargeError(f"the part {self._name} is too long", limit=self._limits.text_part_bytes)
        self.form.texts[self._name] = text

    def _end(self) -> None:
        self.ended = True


@asynccontextmanager
async def received_form(request: Request, folder: Path, allowed: frozenset[str], limits: Limits) -> AsyncIterator[Form]:
    """Receive a form; its clip exists while the context lasts.

    Args:
        folder: where the clip is put, under a name of our own.
        allowed: names of parts that may come, ``clip`` included.

    Raises:
        UnsupportedBodyError: another media type, or a compressed body.
        RequestError, FormError, BodyTooLargeError, ClipTooLargeError, UnusableClipError: the form is malformed, incomplete or too large.
    """
    boundary = _boundary(request, limits)
    with tempfile.TemporaryDirectory(dir=folder) as private:
        reader = _Reader(boundary, Path(private) / CLIP, allowed, limits)
        try:
            await _receive(request, reader, limits)
            form = await to_thread.run_sync(reader.finish)
        finally:
            reader.close()
        yield form


def _boundary(request: Request, limits: Limits) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise UnsupportedBodyError("send the clip as multipart/form-data, part clip", code="unsupported-media-type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedBodyError("the body must not be compressed", code="unsupported-encoding")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= limits.boundary_chars:
        raise RequestError("the multipart boundary is missing or too long", code="malformed-multipart", limit=limits.boundary_chars)
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise ClipTooLargeError("the clip has too many bytes", limit=limits.clip_bytes, observed=float(declared[:20]))
    return boundary


async def _receive(request: Request, reader: _Reader, limits: Limits) -> None:
    """Feed the reader; after a refusal read on to the end, so that a client who is still sending gets to see the answer."""
    received, batch = 0, bytearray()
    refusal: ChronolensError | None = None
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limits.body_bytes:
                raise ClipTooLargeError("the clip has too many bytes", limit=limits.clip_bytes)
            if refusal is not None:
                continue
            batch += chunk
            if len(batch) >= _BATCH_BYTES:
                refusal = await _fed(reader, batch)
                batch = bytearray()
    except ClientDisconnect as error:
        raise RequestError("the body ended early", code="aborted") from error
    refusal = refusal or await _fed(reader, batch)
    if refusal is not None:
        raise refusal


async def _fed(reader: _Reader, batch: bytearray) -> ChronolensError | None:
    try:
        await to_thread.run_sync(reader.feed, bytes(batch))
    except ChronolensError as error:
        return error
    return None
