"""Opens a data set by the name that a user types."""

from __future__ import annotations

from pathlib import Path

from chronolens.clips import ClipSpec
from chronolens.data.clips_folder import open_clips
from chronolens.data.source import ClipSource, SyntheticSource
from chronolens.data.synthetic import SPLITS
from chronolens.data.time_arrow import ArrowSource
from chronolens.errors import OptionsError

ARROW_PREFIX = "arrow-of-time:"


def open_source(data: str, split: str, *, spec: ClipSpec, seed: int, count: int) -> ClipSource:
    """Return one split of a data set.

    Args:
        data: ``synthetic``, a folder with one sub-folder a class, or a CSV file with the columns file, label and perhaps split;
            ``arrow-of-time:`` before it gives every clip forwards and backwards, labelled by that.
        split: ``train``, ``val`` or ``test``.
        spec: how clips are sampled and sized; synthetic ones are drawn at the size.
        seed: of the synthetic clips, or of the division into splits.
        count: at most so many clips; an odd number of clips in two directions is rounded up.

    Raises:
        OptionsError: no such data set or split, a seed below 0, or no clips in this split.
    """
    if split not in SPLITS:
        raise OptionsError(f"unknown split {split!r}", pointer="/split", allowed=SPLITS)
    if seed < 0:
        raise OptionsError("the seed is a whole number of at least 0", pointer="/seed", observed=seed)
    if data.startswith(ARROW_PREFIX):
        if data.startswith(ARROW_PREFIX, len(ARROW_PREFIX)):
            raise OptionsError("time has one arrow", pointer="/data")
        return ArrowSource(open_source(data.removeprefix(ARROW_PREFIX), split, spec=spec, seed=seed, count=(count + 1) // 2))
    if not data:
        raise OptionsError("no data set is named", pointer="/data")
    if data == "synthetic":
        return SyntheticSource(split, seed, count, spec.frames, spec.height, spec.width)
    return open_clips(Path(data), split, spec=spec, seed=seed, count=count)
