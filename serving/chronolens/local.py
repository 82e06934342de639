"""Explain or predict a file on this machine, without a service.

from chronolens.local import explain
result = explain("clip.mp4", model="i3d-synthetic", out="explained")
print(result.target.label, result.masks["freeze"].segments)
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from chronolens import pipeline
from chronolens.clips import DecodedClip
from chronolens.engine import Engine
from chronolens.errors import OptionsError
from chronolens.options import ExplanationOptions, PredictionOptions, check_against
from chronolens.schemas import ExplanationResult, ModelInfo, PredictionResult, Progress
from chronolens.video.decode import decode_clip

Options = TypeVar("Options", bound=PredictionOptions)


def predict(clip: Path | str, *, engine: Engine | None = None, **options: Any) -> PredictionResult:
    """Return the prediction for a video file.

    Args:
        clip: a video file (MP4/MOV, Matroska/WebM or AVI).
        engine: reused between calls so that models are loaded once; a new one when None.
        options: fields of :class:`chronolens.options.PredictionOptions`, at least ``model``.

    Raises:
        ChronolensError: the clip or an option is at fault; the subclass and ``code`` say how.
    """
    engine = engine or Engine()
    wanted = _checked(PredictionOptions, options)
    info = engine.describe(wanted.model)
    decoded, seconds = _decode(Path(clip), info, wanted)
    return pipeline.predict(engine, decoded, wanted, info, timing={"decode": seconds})


def explain(
    clip: Path | str,
    *,
    out: Path | str | None = None,
    engine: Engine | None = None,
    report: Callable[[Progress], None] = pipeline.ignore,
    **options: Any,
) -> ExplanationResult:
    """Explain a video file.

    Args:
        clip: a video file (MP4/MOV, Matroska/WebM or AVI).
        out: folder for the artefacts and ``result.json``; nothing is kept when None.
        engine: reused between calls so that models are loaded once; a new one when None.
        report: told how far the work is.
        options: fields of :class:`chronolens.options.ExplanationOptions`, at least ``model``.

    Raises:
        ChronolensError: the clip or an option is at fault; the subclass and ``code`` say how.
    """
    engine = engine or Engine()
    wanted = _checked(ExplanationOptions, {"artefacts": [], **options} if out is None else options)
    info = engine.describe(wanted.model)
    check_against(wanted, info)
    report(Progress(phase="decode", done=0, total=1))
    decoded, seconds = _decode(Path(clip), info, wanted)
    with tempfile.TemporaryDirectory(prefix="chronolens-") as scratch:
        folder = Path(scratch if out is None else out)
        folder.mkdir(parents=True, exist_ok=True)
        result = pipeline.explain(engine, decoded, wanted, info, folder, report=report, timing={"decode": seconds})
        (folder / pipeline.HEAT_MAPS).unlink(missing_ok=True)
        (folder / "result.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _decode(path: Path, info: ModelInfo, options: PredictionOptions) -> tuple[DecodedClip, float]:
    started = time.perf_counter()
    spec = info.clip
    clip = decode_clip(path, spec.frames, rule=spec.sampling, interval=spec.interval, start_s=options.start_s, end_s=options.end_s)
    return clip, time.perf_counter() - started


def _checked(kind: type[Options], values: dict[str, Any]) -> Options:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        pointer = "/" + "/".join(str(part) for part in first["loc"])
        raise OptionsError(f"{pointer}: {first['msg']}", pointer=pointer) from error
