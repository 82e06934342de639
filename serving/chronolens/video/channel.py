"""The words between the sandbox process and the side that started it.

Sandbox to parent: one byte kind, four bytes length (big endian), payload. Parent to sandbox: one line of JSON per request.
The parent trusts nothing that it reads: kinds, lengths and JSON are checked before use.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

HEADER = struct.Struct(">cI")

PLAN = b"P"
"""JSON ``{"times": [seconds, ...]}``: the frames of the source in presentation order; the parent answers which it wants."""
SIZE = b"S"
"""JSON ``{"width": W, "height": H}`` of the frames that follow."""
FRAME = b"F"
"""Four bytes frame number, then H * W * 3 bytes RGB."""
DONE = b"D"
"""JSON with the facts about the source."""
FAILED = b"E"
"""JSON ``{"code": ..., "limit": ..., "observed": ...}``."""

RANK = struct.Struct(">I")


class Sender:
    """The sandbox's end of the pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, kind: bytes, *parts: bytes | bytearray | memoryview) -> None:
        """Write one message.

        Raises:
            BrokenPipeError: the parent has gone.
        """
        self._write(HEADER.pack(kind, sum(len(part) for part in parts)))
        for part in parts:
            self._write(part)

    def send_json(self, kind: bytes, message: dict[str, Any]) -> None:
        """Write one message with a JSON payload."""
        self.send(kind, json.dumps(message, allow_nan=False).encode())

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
