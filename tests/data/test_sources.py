"""Folders, CSV files, and the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chronolens.clips import ClipSpec, Frames
from chronolens.data.clips_folder import open_clips, random_split
from chronolens.data.source import CachedSource, SyntheticSource
from chronolens.data.synthetic import LABELS, make_clip
from chronolens.errors import OptionsError


class Counting:
    """A source of one-colour clips that counts how often it is asked."""

    classes = ("a", "b")
    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def __len__(self) -> int:
        return 4

    def load(self, number: int) -> tuple[Frames, int]:
        self.calls += 1
        return np.full((2, 3, 5, 3), number * 10, np.uint8), number % 2


def test_the_cache_asks_once_and_gives_the_same(tmp_path: Path) -> None:
    inner = Counting()
    cache = CachedSource(inner, tmp_path, (2, 3, 5))
    for _ in range(3):
        frames, target = cache.load(3)
        assert frames.shape == (2, 3, 5, 3)
        assert (frames == 30).all()
        assert target == 1
    assert inner.calls == 1
    other = CachedSource(Counting(), tmp_path, (2, 3, 5))
    assert (other.load(3)[0] == 30).all()
    assert other.inner.calls == 0  # type: ignore[attr-defined]


def test_class_zero_is_cached_too(tmp_path: Path) -> None:
    cache = CachedSource(Counting(), tmp_path, (2, 3, 5))
    assert [cache.load(0)[1] for _ in range(2)] == [0, 0]
    assert cache.inner.calls == 1  # type: ignore[attr-defined]


def test_a_longer_list_keeps_what_a_shorter_one_stored(tmp_path: Path) -> None:
    short = CachedSource(SyntheticSource("train", 0, 2, 4, 16, 16), tmp_path, (4, 16, 16))
    frames, target = short.load(1)
    longer = CachedSource(SyntheticSource("train", 0, 5, 4, 16, 16), tmp_path, (4, 16, 16))
    assert np.array_equal(longer.load(1)[0], frames)
    assert longer.load(1)[1] == target == 1
    assert longer.load(4)[1] == 4


def test_synthetic_source_draws_the_clips_of_its_split() -> None:
    source = SyntheticSource("test", 9, 3, 4, 16, 20)
    frames, target = source.load(2)
    assert np.array_equal(frames, make_clip("test", 2, 9).render(16, 20, 4))
    assert (len(source), source.classes[target]) == (3, LABELS[2])


def write_clips(root: Path) -> None:
    for label, index in (("rise", 4), ("fall", 5)):
        (root / label).mkdir(parents=True)
        for seed in range(3):
            make_clip("train", index, seed).write_mp4(root / label / f"{seed}.mp4", 32, 48)


def test_a_folder_is_a_data_set(tmp_path: Path) -> None:
    write_clips(tmp_path)
    (tmp_path / "rise" / "notes.txt").write_text("no clip")
    found = {}
    for split in ("train", "val", "test"):
        try:
            source = open_clips(tmp_path, split, spec=ClipSpec(4, 16, 16))
        except OptionsError:
            continue
        assert source.classes == ("fall", "rise")
        for number in range(len(source)):
            found[source.files[number].path] = split
    assert len(found) == 6
    for path, split in found.items():
        assert random_split(f"{path.parent.name}/{path.name}", 0) == split


def test_a_csv_is_a_data_set_and_its_clips_are_decoded(tmp_path: Path) -> None:
    write_clips(tmp_path)
    table = tmp_path / "list.csv"
    table.write_text("file,label,split\nrise/0.mp4,up,train\nfall/1.mp4,down,test\nrise/2.mp4,up,test\n")
    source = open_clips(table, "test", spec=ClipSpec(4, 16, 20))
    assert source.classes == ("down", "up")
    frames, target = source.load(1)
    assert (frames.shape, frames.dtype, target) == ((4, 16, 20, 3), np.uint8, 1)
    assert len(open_clips(table, "test", spec=ClipSpec(4, 16, 20), count=1)) == 1


@pytest.mark.parametrize("text", ["file,label\n", "file,label\n,up\n", "file,label\na.mp4,\n", "file,label,split\na.mp4,up,exam\n"])
def test_a_bad_csv_is_refused(tmp_path: Path, text: str) -> None:
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(OptionsError, match="CSV"):
        open_clips(table, "train", spec=ClipSpec(4, 16, 16))


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="neither"):
        open_clips(tmp_path / "gone", "train", spec=ClipSpec(4, 16, 16))
    with pytest.raises(OptionsError, match="no sub-folders"):
        open_clips(tmp_path, "train", spec=ClipSpec(4, 16, 16))
    with pytest.raises(OptionsError, match="unknown split"):
        open_clips(tmp_path, "exam", spec=ClipSpec(4, 16, 16))


def test_random_split_has_the_promised_shares() -> None:
    splits = [random_split(f"clip{number}", 1) for number in range(2000)]
    assert 0.77 < splits.count("train") / 2000 < 0.83
    assert 0.08 < splits.count("val") / 2000 < 0.12
