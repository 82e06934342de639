"""What training and evaluation read from: a list of clips with class indices, and a cache of sampled frames on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from chronolens.clips import Frames
from chronolens.data.motion_truth import MotionTruth, motion_truth
from chronolens.data.synthetic import LABELS, make_clip
from chronolens.errors import OptionsError

Value = TypeVar("Value", bound=np.generic)


class ClipSource(Protocol):
    """Clips by number.

    ``classes`` are the labels in order of their index; ``name`` tells one source from another on disk.
    """

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def load(self, number: int) -> tuple[Frames, int]:
        """Return the sampled frames (T, H, W, 3) uint8 RGB and the class index."""
        ...


@runtime_checkable
class KnowsMotion(Protocol):
    """A source that knows when and where things move in its clips."""

    def truth(self, number: int) -> MotionTruth:
        """Return when and where something moves in a clip."""
        ...


@dataclass(frozen=True)
class SyntheticSource:
    """The first ``count`` clips of a synthetic split, drawn at the size asked for."""

    split: str
    seed: int
    count: int
    frames: int
    height: int
    width: int

    @property
    def classes(self) -> Sequence[str]:
        return LABELS

    @property
    def name(self) -> str:
        # without the count: a longer training run finds the clips of a shorter one
        return f"synthetic-{self.split}-{self.seed}-{self.frames}x{self.height}x{self.width}"

    def __len__(self) -> int:
        return self.count

    def load(self, number: int) -> tuple[Frames, int]:
        clip = make_clip(self.split, number, self.seed)
        return clip.render(self.height, self.width, self.frames), clip.target

    def truth(self, number: int) -> MotionTruth:
        """Return when and where something moves in a clip."""
        return motion_truth(make_clip(self.split, number, self.seed), self.frames)


class CachedSource:
    """Keeps the frames of another source in one sparse file, so that each clip is drawn or decoded once.

    Args:
        inner: where missing clips come from; all must have the same shape.
        folder: where the files lie; made when missing.
        shape: (T, H, W) of a clip.
    """

    def __init__(self, inner: ClipSource, folder: Path, shape: tuple[int, int, int]) -> None:
        self.inner = inner
        self.shape = (*shape, 3)
        key = hashlib.sha256(inner.name.encode()).hexdigest()[:12]
        self.stem = folder / key
        folder.mkdir(parents=True, exist_ok=True)
        self._open: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]] | None = None

    @property
    def classes(self) -> Sequence[str]:
        return self.inner.classes

    @property
    def name(self) -> str:
        return self.inner.name

    def __len__(self) -> int:
        return len(self.inner)

    def truth(self, number: int) -> MotionTruth:
        """Return when and where something moves in a clip.

        Raises:
            OptionsError: the inner source does not know.
        """
        if not isinstance(self.inner, KnowsMotion):
            raise OptionsError("the data set does not know where its objects are", pointer="/phases")
        return self.inner.truth(number)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}  # a worker process opens the files itself

    def _files(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
        if self._open is not None:
            return self._open
        frames: npt.NDArray[np.uint8] = _mapped(self.stem.with_suffix(".frames"), np.dtype(np.uint8), (len(self), *self.shape))
        marks: npt.NDArray[np.int16] = _mapped(self.stem.with_suffix(".marks"), np.dtype(np.int16), (len(self),))
        self._open = frames, marks
        return frames, marks

    def load(self, number: int) -> tuple[Frames, int]:
        frames, marks = self._files()
        if marks[number] == 0:  # marks hold the class index plus one
            clip, target = self.inner.load(number)
            frames[number] = clip
            marks[number] = target + 1
        return np.array(frames[number]), int(marks[number]) - 1


def _mapped(path: Path, dtype: np.dtype[Value], shape: tuple[int, ...]) -> npt.NDArray[Value]:
    """Open or make a file of at least this size; the file may be longer, from a run with more clips."""
    path.touch()
    needed = int(np.prod(shape)) * dtype.itemsize
    if path.stat().st_size < needed:
        with path.open("r+b") as file:
            file.truncate(needed)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
