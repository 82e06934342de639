"""From engine facts to the answer's schema: plain bookkeeping, no torch, no drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from chronolens.clips import DecodedClip
from chronolens.explain.segments import active, length, segments
from chronolens.options import ExplanationOptions, GradCamOptions
from chronolens.render.overlay import expand_steps, heat_shares
from chronolens.schemas import (
    Artefact,
    Blobs,
    Cells,
    Chance,
    ClassScore,
    ClipSummary,
    Drop,
    ExplanationResult,
    FrameMass,
    HeatMap,
    Mask,
    ModelInfo,
    PassCounts,
    Provenance,
    SampledFrame,
    Scores,
    ScoreSet,
    Segment,
    Target,
)

Facts = Mapping[str, Any]


def clip_summary(clip: DecodedClip) -> ClipSummary:
    """Return the facts of the source and the frames that were sampled."""
    sampled = [
        SampledFrame(frame=int(index), timestamp_s=round(float(time), 6))
        for index, time in zip(clip.indices, clip.timestamps_s, strict=True)
    ]
    info = clip.info
    return ClipSummary(
        sha256=info.sha256,
        codec=info.codec,
        width=info.width,
        height=info.height,
        fps=info.fps,
        frames=info.frames,
        duration_s=info.duration_s,
        sampled=sampled,
    )


def prediction_fields(
    clip: DecodedClip, info: ModelInfo, scores: npt.NDArray[Any], top_k: int, timing: Mapping[str, float]
) -> dict[str, Any]:
    """Return the fields of a :class:`PredictionResult`; ``total`` is the sum of the times given."""
    best = np.argsort(-scores, kind="stable")[:top_k]
    return {
        "model": info.name,
        "weights": info.weights,
        "backend": info.backend,
        "clip": clip_summary(clip),
        "predictions": [ClassScore(class_index=int(k), label=info.classes[k], score=float(scores[k])) for k in best],
        "timing_s": {**timing, "total": sum(timing.values())},
        "warnings": [*clip.warnings, *info.warnings],
    }


def heat_map_report(
    layer: str, maps: npt.NDArray[Any], facts: Facts, options: GradCamOptions, info: ModelInfo, clip: DecodedClip
) -> HeatMap:
    """Return one heat map as the answer shows it; ``maps`` is unscaled, (T', H', W')."""
    return HeatMap(
        layer=layer,
        stage=next((name for name, modules in info.stages.items() if layer in modules), None),
        pathway=facts["pathways"][layer],
        weights=options.weights,
        of=options.of,
        shape=list(maps.shape),
        cells=Cells(**facts["cells"][layer]),
        blobs=Blobs(**facts["blobs"][layer]),
        frames=heat_masses(maps, facts["cells"][layer].get("frames"), clip),
    )


def heat_masses(maps: npt.NDArray[Any], picked: Sequence[int] | None, clip: DecodedClip) -> list[FrameMass]:
    """Return the share of the heat on each sampled frame, or on each frame ``picked`` by the map's pathway.

    Maps (T', H', W') of fewer steps are expanded by repetition where nothing was picked.
    """
    indices = clip.indices if picked is None else clip.indices[list(picked)]
    shares = heat_shares(expand_steps(maps, len(indices)))
    return [FrameMass(frame=int(index), mass=float(share)) for index, share in zip(indices, shares, strict=True)]


def mask_report(learned: Facts, chance: Facts, clip: DecodedClip, end_s: float | None = None) -> Mask:
    """Return one learned mask as the answer shows it; ``end_s`` is where the caller cut the clip."""
    until_s = min(clip.info.start_s + clip.info.duration_s, math.inf if end_s is None else end_s)
    values = [float(value) for value in learned["values"]]
    spans = segments(values, clip.indices.tolist(), clip.timestamps_s.tolist(), until_s=until_s)
    return Mask(
        values=values,
        active=active(values),
        segments=[Segment(**span) for span in spans],
        length=length(values),
        objective=learned["objective"],
        steps=learned["steps"],
        converged=learned["converged"],
        passes=learned["passes"],
        dtype=learned.get("dtype", "float32"),
        optimum=learned.get("optimum"),
        better_than_chance=Chance(**chance),
    )


def build_result(
    clip: DecodedClip,
    options: ExplanationOptions,
    info: ModelInfo,
    look: Facts,
    learned: Mapping[Any, Facts],
    scored: Facts,
    rendered: Facts,
    *,
    href: Callable[[str], str],
    timing: Mapping[str, float],
    package: str,
) -> ExplanationResult:
    """Put the whole answer together from the facts of the steps."""
    seconds = {"decode": 0.0, "queue": 0.0, **timing, "inference": look["seconds"]}
    seconds |= {operator: facts["seconds"] for operator, facts in learned.items()}
    seconds |= {"scores": scored["seconds"], "render": rendered["seconds"]}
    fields = prediction_fields(clip, info, np.asarray(look["scores"]), options.top_k, seconds)
    target = int(look["target"])
    looked = "gradcam" if look["gradcam"] else "predict"
    parts: dict[str, Facts] = {looked: look["passes"], **{o: f["pass_counts"] for o, f in learned.items()}, **scored["passes"]}
    kinds = ("forward", "input_gradient", "weight_gradient", "total")
    passes = {kind: sum(int(part[kind]) for part in parts.values()) for kind in kinds}
    return ExplanationResult(
        **fields,
        target=Target(class_index=target, label=info.classes[target], why="predicted" if options.target is None else "requested"),
        gradcam=[HeatMap(**facts) for facts in look["gradcam"]],
        masks={operator: mask_report(facts, scored["chance"][operator], clip, options.end_s) for operator, facts in learned.items()},
        scores=Scores(**scored["soft"], thresholded=ScoreSet(**scored["thresholded"])),
        drop=Drop(**scored["drop"]),
        passes=PassCounts(**passes, by_purpose={purpose: int(part["total"]) for purpose, part in parts.items()}),
        artefacts=[Artefact(**facts, href=href(facts["name"])) for facts in rendered["artefacts"]],
        provenance=Provenance(
            package=f"chronolens {package}",
            weights=info.weights,
            decoder=f"PyAV {version('av')}",
            device=look["device"],
            dtype=look["dtype"],
            seed=options.mask.seed,
            options=options.model_dump(mode="json"),
        ),
    )
