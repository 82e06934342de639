"""The ``synthetic`` data set: clips whose class can only be read from the order of their frames, with the right answer on record.

A clip is a pure function of (split, index, seed). Class ``index % 16``; each split has texture families and object shapes of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from chronolens.clips import Frames
from chronolens.data.synthetic_render import Renderer
from chronolens.data.synthetic_scene import FPS, LABELS, OPPOSITES, SPLITS, Scene, draw_scene
from chronolens.sampling import sample_indices
from chronolens.video.encode import write_h264

__all__ = ["LABELS", "OPPOSITES", "SPLITS", "SyntheticClip", "make_clip", "write_sample"]

MP4_HEIGHT, MP4_WIDTH = 168, 224


@dataclass(frozen=True)
class SyntheticClip:
    """One clip: its scene and how to draw it."""

    split: str
    index: int
    seed: int
    scene: Scene

    @property
    def label(self) -> str:
        return self.scene.label

    @property
    def target(self) -> int:
        """Class index in ``LABELS``."""
        return LABELS.index(self.scene.label)

    @property
    def total(self) -> int:
        """Number of frames in the whole clip, at 12 frames a second."""
        return self.scene.frames

    def render(self, height: int, width: int, frames: int | None = None) -> Frames:
        """Draw the clip.

        Args:
            height, width: pixels.
            frames: number of frames sampled as a model sees them; all frames when None.

        Returns:
            (T, height, width, 3) uint8 RGB.
        """
        indices = np.arange(self.total) if frames is None else sample_indices(self.total, frames)
        return Renderer(self.scene, height, width).frames(indices)

    def record(self) -> dict[str, Any]:
        """Return the truth about the clip.

        Keys: ``split``, ``index``, ``seed``, ``label``, ``frames``, ``fps``; ``motion_s`` [start, end] in seconds; ``motion_frames``
        [first, last] frame numbers between which pictures change; ``moving`` (``object``, ``camera`` or ``none``); ``boxes``
        (objects, frames, 4) as fractions of the frame, x0 y0 x1 y1, zeros when outside.
        """
        scene = self.scene
        roles = {thing.role for thing in scene.things}
        moving = "object" if "moving" in roles else "camera" if scene.camera[0] != scene.camera[1] else "none"
        first, last = int(np.floor(scene.start_s * FPS)), int(np.ceil(scene.end_s * FPS))
        boxes = Renderer(scene, MP4_HEIGHT, MP4_WIDTH).boxes(range(scene.frames))
        still = moving == "none"
        return {
            "split": self.split, "index": self.index, "seed": self.seed, "label": scene.label,
            "frames": scene.frames, "fps": FPS,
            "motion_s": None if still else [round(scene.start_s, 4), round(scene.end_s, 4)],
            "motion_frames": None if still else [first, min(last, scene.frames - 1)],
            "moving": moving,
            "boxes": np.round(boxes, 4).tolist(),
        }  # fmt: skip

    def write_mp4(self, path: Path, height: int = MP4_HEIGHT, width: int = MP4_WIDTH) -> None:
        """Write all frames as H.264 in MP4; sizes must be even."""
        write_h264(path, self.render(height, width), np.arange(self.total, dtype=np.float64) / FPS)


def make_clip(split: str, index: int, seed: int = 0, label: str | None = None) -> SyntheticClip:
    """Return clip ``index`` of a split.

    Args:
        split: ``train``, ``val`` or ``test``.
        index: at least 0; its class is ``index % len(LABELS)``, so any run of 16 is balanced.
        seed: at least 0; another seed is another data set of the same kind.
        label: overrides the class.

    Raises:
        ValueError: unknown split or label, negative index or seed.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, known: {', '.join(SPLITS)}")
    if index < 0 or seed < 0:
        raise ValueError("index and seed are whole numbers of at least 0")
    label = LABELS[index % len(LABELS)] if label is None else label
    if label not in LABELS:
        raise ValueError(f"unknown label {label!r}, known: {', '.join(LABELS)}")
    scene = draw_scene(label, split, (seed, SPLITS.index(split), index, LABELS.index(label)))
    return SyntheticClip(split, index, seed, scene)


def write_sample(path: Path, label: str = LABELS[0], seed: int = 7) -> dict[str, Any]:
    """Write one clip of the test split as MP4 and return its record; used by the demonstration."""
    clip = make_clip("test", 0, seed, label)
    clip.write_mp4(path)
    return clip.record()


def single_threaded() -> None:
    """Keep OpenCV to the calling thread; call once in a process that renders beside a training run."""
    cv2.setNumThreads(0)
