"""A clip that was sent straight to a model server, as container bytes: decoded in the sandbox, then explained like any other."""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from chronolens import pipeline
from chronolens.clips import DecodedClip
from chronolens.engine_client import EngineClient, Transport
from chronolens.errors import DeadlineExceededError, OptionsError
from chronolens.model_server.given_options import read_options
from chronolens.options import ExplanationOptions, PredictionOptions, check_against
from chronolens.schemas import ExplanationResult, ModelInfo, PredictionResult
from chronolens.video.decode import decode_clip
from chronolens.video.limits import DecodeLimits

MEDIA_TYPE = "application/json"
CLIP_BYTES = 64 * 1024 * 1024
"""Largest clip, as at the gateway."""
LONGEST_S = 30.0
"""Time that a raw clip gets, decoding included; the server that carries it must wait longer than that."""
_LIMITS = DecodeLimits(max_bytes=CLIP_BYTES)
_decoders = threading.BoundedSemaphore(4)


@dataclass(frozen=True)
class RawClip:
    """One request with a clip.

    Args:
        clip: bytes of the file.
        options: JSON, as ``POST /v1/predictions`` and ``POST /v1/explanations`` take it; all defaults when None.
        explain: explain it, instead of predicting only.
    """

    clip: bytes
    options: bytes | None = None
    explain: bool = False


def answer_raw(request: RawClip, info: ModelInfo, transport: Transport, ends_at: float) -> bytes:
    """Return the answer to a raw clip as JSON: an explanation, without artefacts, or a prediction.

    Args:
        info: the served model.
        transport: the way to its engine.
        ends_at: value of ``time.monotonic()`` at which it is too late.

    Raises:
        ChronolensError: the clip or an option is at fault; DeadlineExceededError.
    """
    return (_explained if request.explain else _predicted)(request, info, transport, ends_at).model_dump_json().encode()


def _predicted(request: RawClip, info: ModelInfo, transport: Transport, ends_at: float) -> PredictionResult:
    options = read_options(PredictionOptions, request.options or b"{}", info.name)
    clip, seconds = _decoded(request.clip, options, info, ends_at)
    return pipeline.predict(EngineClient(transport), clip, options, info, timing={"decode": seconds})


def _explained(request: RawClip, info: ModelInfo, transport: Transport, ends_at: float) -> ExplanationResult:
    options = read_options(ExplanationOptions, request.options or b"{}", info.name)
    if options.artefacts:
        raise OptionsError("a model server makes no artefacts; ask the gateway for them", code="method-unavailable", pointer="/artefacts")
    options = options.model_copy(update={"artefacts": []})
    check_against(options, info)
    clip, seconds = _decoded(request.clip, options, info, ends_at)
    with tempfile.TemporaryDirectory(prefix="chronolens-") as folder:
        return pipeline.explain(EngineClient(transport), clip, options, info, Path(folder), timing={"decode": seconds})


def _decoded(body: bytes, options: PredictionOptions, info: ModelInfo, ends_at: float) -> tuple[DecodedClip, float]:
    """Return the decoded clip and the seconds that it took, waiting for a free decoder included."""
    started = time.monotonic()
    if not _decoders.acquire(timeout=max(0.0, ends_at - started)):
        raise DeadlineExceededError("the clip could not be decoded in the time that one request is given")
    try:
        with tempfile.NamedTemporaryFile(prefix="chronolens-") as file:
            file.write(body)
            file.flush()
            clip = decode_clip(
                Path(file.name),
                info.clip.frames,
                rule=info.clip.sampling,
                interval=info.clip.interval,
                start_s=options.start_s,
                end_s=options.end_s,
                limits=_LIMITS,
            )
    finally:
        _decoders.release()
    return clip, time.monotonic() - started
