"""Every limit of a request that the gateway itself enforces; those of the decoder and of the options stand where they are checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from chronolens.video.limits import DecodeLimits


@dataclass(frozen=True)
class Limits:
    """Limits of one upload.

    Args:
        clip_bytes: of the part ``clip``.
        overhead_bytes: of everything else in the body.
        text_part_bytes: of every other part, the options included.
        parts: number of parts.
        part_header_bytes: of the headers of one part.
        boundary_chars: of the multipart boundary.
        json_bytes: of a request that brings its clip inside JSON.
        json_depth: nesting of the options.
        page: jobs on one page of the list.
        wait_s: of ``Prefer: wait=N``.
        ranges: byte ranges of one request; more get the whole file.
        decode: limits of the decoder's process.
    """

    clip_bytes: int = 64 * 1024 * 1024
    overhead_bytes: int = 1024 * 1024
    text_part_bytes: int = 64 * 1024
    parts: int = 10
    part_header_bytes: int = 8 * 1024
    boundary_chars: int = 70
    json_bytes: int = 16 * 1024 * 1024
    json_depth: int = 32
    page: int = 100
    wait_s: float = 60.0
    ranges: int = 5
    decode: DecodeLimits = dataclasses.field(default_factory=DecodeLimits)

    @property
    def body_bytes(self) -> int:
        """Largest whole body."""
        return self.clip_bytes + self.overhead_bytes

    def describe(self) -> dict[str, Any]:
        """Return all limits as JSON."""
        return {**dataclasses.asdict(self), "body_bytes": self.body_bytes}
