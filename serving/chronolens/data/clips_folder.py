"""Data sets of video files: a folder with one sub-folder a class, or a CSV file with the columns ``file,label`` and perhaps ``split``.

Without a ``split`` column clips are divided at random: 80 % train, 10 % val, 10 % test. A clip's split depends on its relative path and the
seed alone, so adding clips does not move others.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chronolens.clips import ClipSpec, Frames
from chronolens.errors import OptionsError
from chronolens.video.decode import decode_clip
from chronolens.video.prepare import fit_frames

SPLITS = ("train", "val", "test")
ENDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


@dataclass(frozen=True)
class ClipFile:
    """One clip: where it is, its label, and its split (``train``, ``val`` or ``test``)."""

    path: Path
    label: str
    split: str


@dataclass(frozen=True)
class FolderSource:
    """One split of a data set of files, decoded in the sandbox when asked for."""

    root: Path
    split: str
    seed: int
    files: tuple[ClipFile, ...]
    classes: Sequence[str]
    spec: ClipSpec

    @property
    def name(self) -> str:
        listing = hashlib.sha256("\n".join(f"{file.path}\t{file.label}" for file in self.files).encode()).hexdigest()
        seen = (self.spec.sampling, self.spec.interval, self.spec.resize, self.spec.short_side, self.spec.interpolation)
        return f"files-{self.split}-{listing}-{self.spec.frames}x{self.spec.height}x{self.spec.width}-{seen}"

    def __len__(self) -> int:
        return len(self.files)

    def load(self, number: int) -> tuple[Frames, int]:
        """Return frames (T, H, W, 3) uint8 RGB and class index.

        Raises:
            ClipError: the file cannot be used.
        """
        file = self.files[number]
        clip = decode_clip(file.path, frames=self.spec.frames, rule=self.spec.sampling, interval=self.spec.interval)
        return fit_frames(clip.frames, self.spec), list(self.classes).index(file.label)


def open_clips(path: Path, split: str, *, spec: ClipSpec, seed: int = 0, count: int | None = None) -> FolderSource:
    """Open one split of a folder or CSV file.

    Args:
        path: folder or ``.csv`` file; paths in the CSV are relative to it.
        split: ``train``, ``val`` or ``test``.
        spec: how clips are sampled and sized.
        seed: of the random division.
        count: at most so many clips, spread evenly over the list; all when None.

    Raises:
        OptionsError: unknown split, nothing there, a bad CSV, or no clips in this split.
    """
    if split not in SPLITS:
        raise OptionsError(f"unknown split {split!r}", pointer="/split", allowed=SPLITS)
    if path.is_dir():
        root, files = path, _list_folder(path, seed)
    elif path.suffix.lower() == ".csv" and path.is_file():
        root, files = path.parent, _list_csv(path, seed)
    else:
        raise OptionsError("data is neither 'synthetic' nor a folder nor a CSV file", pointer="/data")
    classes = tuple(sorted({file.label for file in files}))
    chosen = [file for file in files if file.split == split]
    if not chosen:
        raise OptionsError(f"the data set has no clips in the split {split!r}", pointer="/split")
    if count is not None and count < len(chosen):
        chosen = [chosen[index * len(chosen) // count] for index in range(count)]
    return FolderSource(root, split, seed, tuple(chosen), classes, spec)


def random_split(key: str, seed: int) -> str:
    """Return the split of a clip from a digest of its relative path and the seed."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    part = int.from_bytes(digest[:4], "big") / 2**32
    return "train" if part < 0.8 else "val" if part < 0.9 else "test"


def _list_folder(root: Path, seed: int) -> list[ClipFile]:
    found = []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in ENDINGS:
                found.append(ClipFile(file, folder.name, random_split(f"{folder.name}/{file.name}", seed)))
    if not found:
        raise OptionsError("the folder has no sub-folders with clips", pointer="/data")
    return found


def _list_csv(path: Path, seed: int) -> list[ClipFile]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for number, row in enumerate(rows, start=2):
        name, label = (row.get("file") or "").strip(), (row.get("label") or "").strip()
        split = (row.get("split") or "").strip() or random_split(name, seed)
        if not name or not label or split not in SPLITS:
            raise OptionsError(
                f"line {number} of the CSV needs a file, a label and, if given, a split out of {', '.join(SPLITS)}",
                pointer="/data",
            )
        found.append(ClipFile(path.parent / name, label, split))
    if not found:
        raise OptionsError("the CSV has no rows", pointer="/data")
    return found
