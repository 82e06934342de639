"""What a clip is before and after it is prepared for a model.

Axis words used everywhere: N clips, C channels (RGB order), T frames, H rows, W columns.
A *decoded* clip is uint8 (T, H, W, C); a *prepared* clip is float32 (N, C, T, H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from chronolens.sampling import check_rule

RESIZES = ("stretch", "crop", "crop-pyslowfast", "crop-mmaction2")
INTERPOLATIONS = ("area", "bilinear", "pil")
CHANNELS = ("rgb", "bgr")

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClipSpec:
    """The input that a model was trained on.

    Args:
        frames: number of frames T that the model takes.
        height, width: size of a frame in pixels.
        sampling: name of the rule that picks the frames, see :func:`chronolens.sampling.sample_indices`.
        scale: factor applied to values in 0..255 before ``mean`` and ``std``.
        mean, std: per channel, in the order of ``channels``, after scaling; the network sees ``(value * scale - mean) / std``.
        interval: from one sampled frame to the next, for sampling rules that take a dense clip.
        resize: ``stretch`` to ``height`` x ``width`` without keeping the aspect ratio, or one of three ways to scale the short side to
            ``short_side`` and cut the middle out; they differ in half pixels, see :func:`chronolens.video.prepare.crop_window`.
        short_side: in pixels, at least ``height`` and ``width``; 0 when frames are stretched.
        interpolation: ``area`` (means over areas when shrinking, linear when enlarging), ``bilinear`` (between the four nearest pixels,
            as torch and OpenCV do) or ``pil`` (Pillow's bilinear filter, which widens when shrinking).
        channels: order in which the network takes them, ``rgb`` or ``bgr``.

    Raises:
        ValueError: an unknown word, an interval that the rule would ignore, a short side that does not hold the frame, or a number that
            is none, not finite or out of range; ``mean`` and ``std`` have three entries, those of ``std`` above 0.
    """

    frames: int
    height: int
    width: int
    sampling: str = "centre"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interval: int = 1
    resize: str = "stretch"
    short_side: int = 0
    interpolation: str = "area"
    channels: str = "rgb"

    def __post_init__(self) -> None:
        sizes = (("frames", 1, 1024), ("height", 1, 4096), ("width", 1, 4096), ("interval", 1, 10_000), ("short_side", 0, 8192))
        for name, least, most in sizes:
            size = getattr(self, name)
            if type(size) is not int or not least <= size <= most:
                raise ValueError(f"{name} of a clip spec is a whole number from {least} to {most}, not {size!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)  # lists come out of JSON
        for name, values, count in (("scale", (self.scale,), 1), ("mean", self.mean, 3), ("std", self.std, 3)):
            if not isinstance(values, tuple) or len(values) != count or not all(_finite(value) for value in values):
                raise ValueError(f"{name} of a clip spec is {'a finite number' if count == 1 else 'three finite numbers'}, not {values!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std of a clip spec is divided by and has to be above 0, unlike {self.std!r}")
        check_rule(self.sampling, self.interval)
        words = ((self.resize, RESIZES), (self.interpolation, INTERPOLATIONS), (self.channels, CHANNELS))
        for word, known in words:
            if word not in known:
                raise ValueError(f"unknown word {word!r} in a clip spec, known: {', '.join(known)}")
        if (self.short_side != 0) if self.resize == "stretch" else self.short_side < max(self.height, self.width):
            raise ValueError(f"{self.height} x {self.width} pixels do not go with {self.resize!r} and a short side of {self.short_side}")


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


@dataclass(frozen=True)
class CellGrid:
    """Where the cells of a layer's map lie on the prepared clip.

    Along each axis (T, H, W) the receptive field of cell ``i`` is centred at ``first + i * stride``, in frames and pixels of the model's
    input, where pixel 0 reaches from 0 to 1. Asymmetric padding moves ``first`` away from ``stride / 2``.

    Args:
        stride, first: see above.
        frames: which frame of the clip each step looks at, where a pathway has picked its own, and then all that counts in time; None where
            steps divide the clip evenly.
    """

    stride: tuple[float, float, float]
    first: tuple[float, float, float]
    frames: tuple[int, ...] | None = None

    def steps_shown(self, steps: int, frames: int) -> npt.NDArray[np.int64]:
        """Return which of ``steps`` steps each of ``frames`` frames shows, (T,) int64.

        Steps that divide the clip evenly are repeated, ``t * T' // T``. Where a pathway has picked its own frames, a frame shows the step
        of the nearest of them, the earlier one of two.

        Raises:
            ValueError: no steps or no frames, or picked frames that do not fit the steps.
        """
        if steps < 1 or frames < 1 or (self.frames is not None and len(self.frames) != steps):
            raise ValueError(f"cannot expand {steps} steps to {frames} frames")
        times = np.arange(frames)
        if self.frames is None:
            even: npt.NDArray[np.int64] = times * steps // frames
            return even
        nearest: npt.NDArray[np.int64] = np.abs(times[:, None] - np.asarray(self.frames)[None]).argmin(axis=1)
        return nearest


@dataclass(frozen=True)
class ClipInfo:
    """Facts about the source file; counts are those of the decoded truth, not of the header.

    ``start_s`` is the time of the first frame on the container's clock, ``duration_s`` reaches from there to the end of the last frame.
    """

    sha256: str
    container: str
    codec: str
    width: int
    height: int
    fps: float
    frames: int
    duration_s: float
    start_s: float = 0.0


@dataclass(frozen=True)
class DecodedClip:
    """The sampled frames of one clip.

    Args:
        frames: (T, H, W, 3) uint8 RGB at source size (at most 720 rows), in presentation order.
        indices: (T,) int64 frame numbers in the source, counted from 0 in presentation order; repeated when the source is short.
        timestamps_s: (T,) float64 presentation times in seconds from the container.
        info: facts about the source.
        warnings: sentences for the user, such as repeated frames.
    """

    frames: Frames
    indices: npt.NDArray[np.int64]
    timestamps_s: npt.NDArray[np.float64]
    info: ClipInfo
    warnings: list[str] = field(default_factory=list)
