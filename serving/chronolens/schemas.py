"""Wire types of every answer, shared by gateway, model servers, command line and client; no torch.

Times are seconds, sizes bytes, frame numbers count from 0 in presentation order.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Phase = Literal["decode", "predict", "gradcam", "freeze", "reverse", "render"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClipSpecInfo(_Answer):
    """The input that a model takes, see :class:`chronolens.clips.ClipSpec`; the later fields have the values of before they existed."""

    frames: int
    height: int
    width: int
    sampling: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interval: int = 1
    resize: str = "stretch"
    short_side: int = 0
    interpolation: str = "area"
    channels: str = "rgb"


class ModelInfo(_Answer):
    """One served model. ``weights`` is the SHA-256 of its weights file.

    ``layers`` are the modules that Grad-CAM accepts, in the order in which they run; ``stages`` are short names for some of them, each for
    one module a pathway; ``default_layers`` what ``default`` stands for.
    """

    name: str
    architecture: str
    data_set: str
    classes: list[str]
    clip: ClipSpecInfo
    methods: list[str]
    mask_presets: list[str] = Field(default_factory=lambda: ["default", "paper", "authors", "exhaustive"])
    layers: list[str]
    default_layers: list[str]
    stages: dict[str, list[str]] = Field(default_factory=dict)
    pathways: list[str]
    weights: str
    licence: str
    backend: str
    state: Literal["ready", "loading", "failed"]
    metrics: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, values: Any) -> Any:
        """Take what jobs hold that were stored when every model had one default layer."""
        if isinstance(values, dict) and "default_layer" in values:
            values = {**values, "default_layers": [values["default_layer"]]}
            del values["default_layer"]
        return values


class SampledFrame(_Answer):
    """One frame that the model saw."""

    frame: int
    timestamp_s: float


class ClipSummary(_Answer):
    """The source clip and which of its frames were used."""

    sha256: str
    codec: str
    width: int
    height: int
    fps: float
    frames: int
    duration_s: float
    sampled: list[SampledFrame]


class ClassScore(_Answer):
    """Softmax probability of one class."""

    class_index: int
    label: str
    score: float


class PredictionResult(_Answer):
    """Answer of ``POST /v1/predictions``; ``timing_s`` has decode, queue, inference and total."""

    model: str
    weights: str
    backend: str
    clip: ClipSummary
    predictions: list[ClassScore]
    timing_s: dict[str, float]
    warnings: list[str]


class Target(_Answer):
    """The class that is explained."""

    class_index: int
    label: str
    why: Literal["predicted", "requested"]


class Blobs(_Answer):
    """Blobs of a heat map at the size of the model's input; null where there is none."""

    count_per_frame: float | None
    mean_size_px: float | None
    mean_center_distance_px: float | None


class Cells(_Answer):
    """Where the cells of a map lie, (T, H, W): cell ``i`` sees around ``first + i * stride``, in frames and pixels of the model's input.

    ``frames`` tells which of the T frames each step of the map looks at, where a pathway has picked its own; in time it then counts alone.
    """

    stride: tuple[float, float, float]
    first: tuple[float, float, float]
    frames: list[int] | None = None


class FrameMass(_Answer):
    """Share of the whole heat map that lies on one frame; the shares of a map sum to 1 (or all are 0)."""

    frame: int
    mass: float


class HeatMap(_Answer):
    """One Grad-CAM result. ``shape`` is (T', H', W') of the unscaled map, ``stage`` the short name of the layer where it has one.

    ``frames`` are the sampled frames, or those of them that the pathway has picked for itself.
    """

    layer: str
    stage: str | None = None
    pathway: str | None
    weights: str
    of: str
    shape: list[int]
    cells: Cells
    blobs: Blobs
    frames: list[FrameMass]


class Segment(_Answer):
    """A run of masked frames, both ends included."""

    first_frame: int
    last_frame: int
    start_s: float
    end_s: float


class Objective(_Answer):
    """``total = l1 + tv + score``, the first two already weighted; null when the network gave no finite number."""

    total: float | None
    l1: float | None
    tv: float | None
    score: float | None


class Chance(_Answer):
    """Rank of the mask among contiguous windows of its length; null when there is nothing to compare with."""

    p_value: float | None
    windows: int


class Optimum(_Answer):
    """Proof that no mask of a family has a lower objective: how many there are, how many got a score, the best and the second best."""

    family: str
    size: int
    scored: int
    best: float | None
    second: float | None


class Mask(_Answer):
    """One learned temporal mask: ``values`` in [0, 1] a frame, ``active`` where above 0.5, ``length`` how many.

    ``dtype`` is the precision of the network while it was learned; its objective is always computed in ``provenance.dtype``.
    ``optimum`` is there after the exhaustive search only.
    """

    values: list[float]
    active: list[bool]
    segments: list[Segment]
    length: int
    objective: Objective
    steps: int
    converged: bool
    passes: int
    dtype: str = "float32"  # results of before this field existed
    optimum: Optimum | None = None
    better_than_chance: Chance


class ScoreSet(_Answer):
    """Softmax probability of the target under each perturbation; null where the method was not asked for."""

    original: float
    freeze: float | None = None
    reverse: float | None = None
    reverse_learned: float | None = None
    fully_frozen: float | None = None
    fully_reversed: float | None = None
    true_class: float | None = None


class Scores(ScoreSet):
    """Scores under the soft masks, and the same under masks set to 0 or 1 at 0.5."""

    thresholded: ScoreSet


class Drop(_Answer):
    """Falls of the score: ``freeze`` = OS - FS, ``reverse`` = OS - RS, ``ratio`` of the two, ``difference`` = RS - FS."""

    freeze: float | None
    reverse: float | None
    ratio: float | None
    reason: str | None
    difference: float | None


class Artefact(_Answer):
    """A file made for this explanation."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    href: str


class Provenance(_Answer):
    """What is needed to make the result again."""

    package: str
    weights: str
    decoder: str
    device: str
    dtype: str
    seed: int
    options: dict[str, Any]


class PassCounts(_Answer):
    """Passes of one clip through the network, all together by direction and by what they were for: ``predict`` or ``gradcam``,
    ``freeze``, ``reverse``, ``scores``, ``chance``. Serving never needs a weight gradient."""

    forward: int
    input_gradient: int
    weight_gradient: int
    total: int
    by_purpose: dict[str, int] = Field(default_factory=dict)


class ExplanationResult(PredictionResult):
    """Answer of a finished explanation job."""

    target: Target
    gradcam: list[HeatMap]
    masks: dict[Literal["freeze", "reverse"], Mask]
    scores: Scores
    drop: Drop
    passes: PassCounts
    artefacts: list[Artefact]
    provenance: Provenance


class ProblemEntry(_Answer):
    """One thing that is wrong; exactly one of pointer, header and part says where."""

    code: str
    detail: str
    pointer: str | None = None
    header: str | None = None
    part: str | None = None


class Problem(BaseModel):
    """RFC 9457 problem details, the body of every refusal."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[ProblemEntry] = Field(default_factory=list)
    limit: float | None = None
    observed: float | None = None
    retry_after: int | None = None


class Progress(_Answer):
    """How far a job is; ``eta_s`` is null until it can be told. ``partial`` holds the mask so far, when one is being learnt.

    ``done`` of ``total`` are passes through the network, the total an estimate; the phase ``render`` scores first, drawing counts one more.
    """

    phase: Phase
    done: int
    total: int
    eta_s: float | None = None
    partial: list[float] | None = None


class Job(_Answer):
    """One explanation job."""

    id: str
    status: Status
    created_at: str
    started_at: str | None
    finished_at: str | None
    attempts: int
    progress: Progress | None
    links: dict[str, str]
    result: ExplanationResult | None
    error: Problem | None
    cached: bool = False


class JobPage(_Answer):
    """One page of a caller's jobs, newest first; ``next_cursor`` is null on the last page. Jobs are listed without their results."""

    jobs: list[Job]
    next_cursor: str | None
