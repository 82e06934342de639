"""The one order of an explanation: look, learn the masks slice by slice, score, render, report. No torch.

The same code drives every engine (in this process, a worker process, a model server) and every caller (command line, durable jobs).
Each piece of work goes through ``step``, whose JSON result is the checkpoint from which a killed job goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from chronolens import __version__
from chronolens.artefacts import Picture, write_artefacts
from chronolens.clips import CellGrid, ClipSpec, DecodedClip, Frames
from chronolens.errors import NonFiniteResultError
from chronolens.explain.words import OPERATORS, Operator
from chronolens.options import ExplanationOptions, GradCamOptions, MaskOptions, PredictionOptions, class_index
from chronolens.report import build_result, heat_map_report, prediction_fields
from chronolens.schemas import ExplanationResult, ModelInfo, PredictionResult, Progress
from chronolens.video.prepare import crop_window, fit_frames
from chronolens.wire import Arrays, pack, unpack

Facts = dict[str, Any]
Step = Callable[[str, Callable[[], Facts]], Facts]
HEAT_MAPS = "heat-maps.safetensors"
SLICE_STEPS = 25
SLICE_SECONDS = 0.2
"""Progress, cancelling and checkpoints come at least this often, or after every step where one takes longer."""


class Engine(Protocol):
    """What the pipeline needs of whatever runs the networks. Frames are uint8 (T, H, W, 3) at the model's own size."""

    def models(self) -> list[ModelInfo]:
        """Return the models that can be asked for."""

    def look(self, model: str, frames: Frames, *, target: int | None, gradcam: GradCamOptions | None) -> tuple[Arrays, Facts]:
        """Score the clip and, when asked, map it.

        Returns:
            Arrays ``scores`` (K,) and ``map/LAYER`` (T', H', W') unscaled; facts ``target``, ``known`` (the target's score, for
            ``learn`` and ``score``), ``passes``, ``seconds``, ``device``, ``dtype`` and, for each layer mapped, ``blobs``, ``cells`` and
            ``pathways``.
        """

    def learn(
        self,
        model: str,
        frames: Frames,
        target: int,
        operator: Operator,
        options: MaskOptions,
        state: Facts | None,
        *,
        max_steps: int,
        budget_s: float,
        known: Sequence[Sequence[Any]] = (),
    ) -> Facts:
        """Advance one mask by at most ``max_steps`` steps or ``budget_s`` seconds, at least by one.

        Args:
            known: what is known from before, see :class:`chronolens.explain.known.Known`; read at the first call, whose state is None.

        Returns:
            ``state`` to hand in again, ``done`` (bool), ``progress`` of ``total`` passes, ``seconds`` so far, ``values`` (best mask so
            far) and, when done, ``learned`` with the mask's ``values``, objective, steps, ``passes``, ``pass_counts``, ``seconds``,
            ``dtype``, ``optimum`` and what is ``known`` since.
        """

    def score(
        self,
        model: str,
        frames: Frames,
        target: int,
        masks: dict[Operator, list[float]],
        options: MaskOptions,
        known: Sequence[Sequence[Any]] = (),
        *,
        budget_s: float = math.inf,
    ) -> Facts:
        """Score the perturbed clips for at most ``budget_s`` seconds, at least a batch.

        Returns:
            ``done`` (bool), ``waiting`` (perturbations left), ``known`` to hand in again, ``passes`` of this call for ``scores`` and
            ``chance``, ``seconds``; when done, ``soft`` and ``thresholded`` scores, ``drop``, and for each mask ``chance`` and its matrix
            ``perturbation`` (T x T).
        """


def direct(_name: str, work: Callable[[], Facts]) -> Facts:
    """Run a step at once, without a checkpoint."""
    return work()


def ignore(_progress: Progress) -> None:
    """Drop progress."""


def predict(
    engine: Engine, clip: DecodedClip, options: PredictionOptions, info: ModelInfo, *, timing: dict[str, float] | None = None
) -> PredictionResult:
    """Return the ``top_k`` classes of a clip.

    Args:
        timing: seconds already spent (``decode``, ``queue``), copied into the result.

    Raises:
        NonFiniteResultError: the network returned NaN or infinity.
    """
    frames = fit_frames(clip.frames, ClipSpec(**info.clip.model_dump()))
    started = time.perf_counter()
    arrays, _ = engine.look(info.name, frames, target=None, gradcam=None)
    spent = {"decode": 0.0, "queue": 0.0, **(timing or {}), "inference": time.perf_counter() - started}
    return PredictionResult(**prediction_fields(clip, info, _finite(arrays["scores"]), options.top_k, spent))


def explain(
    engine: Engine,
    clip: DecodedClip,
    options: ExplanationOptions,
    info: ModelInfo,
    folder: Path,
    *,
    step: Step = direct,
    report: Callable[[Progress], None] = ignore,
    href: Callable[[str], str] = str,
    timing: dict[str, float] | None = None,
) -> ExplanationResult:
    """Explain one clip and write its artefacts.

    Args:
        options: already checked against the model, see :func:`chronolens.options.check_against`.
        folder: existing folder for artefacts and intermediate arrays; a resumed job must get the same one.
        step: runs and checkpoints one piece of work.
        report: told how far the work is, after every piece of it.
        href: turns an artefact's name into its link.
        timing: seconds already spent (``decode``, ``queue``).

    Raises:
        ChronolensError: whatever the engine raised; NonFiniteResultError when the prediction is not finite.
    """
    frames = fit_frames(clip.frames, ClipSpec(**info.clip.model_dump()))
    report(Progress(phase="predict", done=0, total=1))
    look = step("look", lambda: _look(engine, clip, frames, options, info, folder))
    report(Progress(phase="gradcam" if "gradcam" in options.methods else "predict", done=1, total=1))
    target = int(look["target"])
    learned: dict[Operator, Facts] = {}
    known = list(look.get("known", []))  # a checkpoint of before it existed has none
    for operator in OPERATORS:
        if operator in options.methods:
            learned[operator] = _learn(engine, frames, target, operator, options, info, known=list(known), step=step, report=report)
            known += learned[operator]["known"]
    scored = _score(engine, frames, look, learned, options, info, known, step=step, report=report)
    rendered = step("render", lambda: _render(clip, options, info, folder, look, learned, scored))
    total = sum(spent["total"] for spent in scored["passes"].values()) + 1
    report(Progress(phase="render", done=total, total=total, eta_s=0.0))
    return build_result(clip, options, info, look, learned, scored, rendered, href=href, timing=timing or {}, package=__version__)


def _look(engine: Engine, clip: DecodedClip, frames: Frames, options: ExplanationOptions, info: ModelInfo, folder: Path) -> Facts:
    wanted = options.gradcam if "gradcam" in options.methods else None
    arrays, facts = engine.look(info.name, frames, target=class_index(info.classes, options.target, "/target"), gradcam=wanted)
    scores = _finite(arrays["scores"])
    maps = {name: array for name, array in arrays.items() if name.startswith("map/")}
    for array in maps.values():
        _finite(array)
    (folder / HEAT_MAPS).write_bytes(pack(maps, {}))
    layers = {name.removeprefix("map/"): array for name, array in maps.items()}
    reports = [heat_map_report(layer, array, facts, options.gradcam, info, clip).model_dump() for layer, array in layers.items()]
    return {**facts, "scores": scores.tolist(), "gradcam": reports}


def _learn(
    engine: Engine,
    frames: Frames,
    target: int,
    operator: Operator,
    options: ExplanationOptions,
    info: ModelInfo,
    *,
    known: list[list[Any]],
    step: Step,
    report: Callable[[Progress], None],
) -> Facts:
    facts: Facts = {"state": None, "done": False}
    slices = 0
    while not facts["done"]:
        state = facts["state"]

        def work(state: Facts | None = state) -> Facts:
            return engine.learn(
                info.name,
                frames,
                target,
                operator,
                options.mask,
                state,
                max_steps=SLICE_STEPS,
                budget_s=SLICE_SECONDS,
                known=() if state else known,
            )

        facts = step(f"{operator}-{slices}", work)
        slices += 1
        eta = facts["seconds"] / max(facts["progress"], 1) * (facts["total"] - facts["progress"])
        report(Progress(phase=operator, done=facts["progress"], total=facts["total"], eta_s=eta, partial=facts["values"]))
    learned: Facts = facts["learned"]
    return learned


def _score(
    engine: Engine,
    frames: Frames,
    look: Facts,
    learned: dict[Operator, Facts],
    options: ExplanationOptions,
    info: ModelInfo,
    known: list[list[Any]],
    *,
    step: Step,
    report: Callable[[Progress], None],
) -> Facts:
    masks = {operator: facts["values"] for operator, facts in learned.items()}
    slices: list[Facts] = []
    while not slices or not slices[-1]["done"]:
        so_far = slices[-1]["known"] if slices else known

        def work(so_far: list[list[Any]] = so_far) -> Facts:
            return engine.score(info.name, frames, int(look["target"]), masks, options.mask, so_far, budget_s=SLICE_SECONDS)

        slices.append(step(f"score-{len(slices)}", work))
        done = sum(entry["total"] for facts in slices for entry in facts["passes"].values())
        report(Progress(phase="render", done=done, total=done + slices[-1]["waiting"] + 1))
    true_class = class_index(info.classes, options.true_class, "/true_class")
    true_score = None if true_class is None else look["scores"][true_class]
    tables = {name: {**slices[-1][name], "true_class": true_score} for name in ("soft", "thresholded")}
    passes = {
        purpose: {kind: sum(facts["passes"][purpose][kind] for facts in slices) for kind in spent}
        for purpose, spent in slices[-1]["passes"].items()
    }
    return {**slices[-1], **tables, "passes": passes, "seconds": sum(facts["seconds"] for facts in slices)}


def _render(
    clip: DecodedClip,
    options: ExplanationOptions,
    info: ModelInfo,
    folder: Path,
    look: Facts,
    learned: dict[Operator, Facts],
    scored: Facts,
) -> Facts:
    started = time.perf_counter()
    maps, _ = unpack((folder / HEAT_MAPS).read_bytes())
    titles = {entry["layer"]: (entry.get("stage") or entry["layer"], entry["pathway"]) for entry in look["gradcam"]}
    picture = Picture(
        clip,
        label=info.classes[look["target"]],
        scores=scored["soft"],
        class_scores=np.asarray(look["scores"]),
        maps={entry["layer"]: maps[f"map/{entry['layer']}"] for entry in look["gradcam"]},
        grids={entry["layer"]: CellGrid(**entry["cells"]) for entry in look["gradcam"]},
        titles=titles,
        drawn=_drawn(titles, info.default_layers),
        input_size=(info.clip.height, info.clip.width),
        window=crop_window(clip.frames.shape[1], clip.frames.shape[2], ClipSpec(**info.clip.model_dump())),
        masks={operator: np.asarray(facts["values"]) for operator, facts in learned.items()},
        perturbations={operator: np.asarray(matrix) for operator, matrix in scored["perturbation"].items()},
    )
    files = write_artefacts(folder, options.wanted_artefacts(len(picture.maps)), picture)
    return {"artefacts": files, "seconds": time.perf_counter() - started}


def _drawn(titles: Mapping[str, tuple[str, str | None]], default: Sequence[str]) -> list[str]:
    """Return the layers to draw where there is room for one stage: the default ones if they were mapped, else those of the first stage."""
    first = next(iter(titles.values()), ("", None))[0]
    return [layer for layer in titles if layer in default] or [layer for layer, (stage, _) in titles.items() if stage == first]


def _finite(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if not np.isfinite(array).all():
        raise NonFiniteResultError("the network returned a value that is not finite for this clip")
    return array
