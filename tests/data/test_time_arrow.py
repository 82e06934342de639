"""The arrow of time: every clip twice, told apart by its direction alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chronolens.clips import ClipSpec, Frames
from chronolens.data.clips_folder import open_clips, random_split
from chronolens.data.source import SyntheticSource
from chronolens.data.synthetic import OPPOSITES, make_clip
from chronolens.data.time_arrow import ARROW, BACKWARDS, FORWARDS, ArrowSource
from chronolens.errors import OptionsError
from chronolens.training.evaluate import Predictions, backwards_scores, evaluate
from chronolens.training.loop import open_sources
from chronolens.training.options import TrainOptions
from chronolens.training.sources import open_source


class Numbered:
    """Three clips whose frame t of clip k is filled with 10 k + t."""

    classes = ("a", "b")
    name = "numbered"

    def __len__(self) -> int:
        return 3

    def load(self, number: int) -> tuple[Frames, int]:
        values = (10 * number + np.arange(4, dtype=np.uint8))[:, None, None, None]
        return np.broadcast_to(values, (4, 2, 3, 3)).copy(), 1


def test_every_clip_is_there_forwards_and_backwards() -> None:
    source = ArrowSource(Numbered())
    assert len(source) == 6
    shown = [(source.load(number)[0][:, 0, 0, 0].tolist(), source.load(number)[1]) for number in range(6)]
    assert shown == [
        ([0, 1, 2, 3], 0), ([3, 2, 1, 0], 1),
        ([10, 11, 12, 13], 0), ([13, 12, 11, 10], 1),
        ([20, 21, 22, 23], 0), ([23, 22, 21, 20], 1),
    ]  # fmt: skip


def test_the_label_is_the_direction_and_not_the_class_of_the_clip() -> None:
    source = ArrowSource(Numbered())
    assert source.classes == (FORWARDS, BACKWARDS) == ("played forwards", "played backwards")
    assert [source.classes[source.load(number)[1]] for number in (2, 3)] == [FORWARDS, BACKWARDS]
    assert ARROW == {FORWARDS: BACKWARDS, BACKWARDS: FORWARDS}
    assert source.name != Numbered.name


def test_backwards_means_reversed_in_time_and_nothing_else() -> None:
    inner = SyntheticSource("test", 1, 2, 5, 12, 16)
    source = ArrowSource(inner)
    frames, _ = inner.load(1)
    assert np.array_equal(source.load(2)[0], frames)
    backwards, _ = source.load(3)
    assert np.array_equal(backwards[::-1], frames)
    assert not np.array_equal(backwards, frames)
    assert (backwards.shape, backwards.dtype, backwards.flags["C_CONTIGUOUS"]) == ((5, 12, 16, 3), np.uint8, True)


def named_of_split(folder: str, split: str) -> str:
    return next(f"{number}.mp4" for number in range(1000) if random_split(f"{folder}/{number}.mp4", 0) == split)


def test_a_folder_of_films_becomes_a_question_of_direction(tmp_path: Path) -> None:
    for folder, index in (("rise", 4), ("fall", 5)):
        (tmp_path / folder).mkdir()
        make_clip("train", index).write_mp4(tmp_path / folder / named_of_split(folder, "test"), 32, 48)
    source = open_source(f"arrow-of-time:{tmp_path}", "test", spec=ClipSpec(4, 16, 20), seed=0, count=10)
    inner = open_clips(tmp_path, "test", spec=ClipSpec(4, 16, 20))
    assert (len(inner), inner.classes) == (2, ("fall", "rise"))
    assert (len(source), list(source.classes)) == (4, [FORWARDS, BACKWARDS])
    for number in range(2):
        frames, _ = inner.load(number)
        forwards, backwards = source.load(2 * number), source.load(2 * number + 1)
        assert np.array_equal(forwards[0], frames)
        assert np.array_equal(backwards[0], frames[::-1])
        assert (forwards[1], backwards[1]) == (0, 1)
    assert len(open_source(f"arrow-of-time:{tmp_path}", "test", spec=ClipSpec(4, 16, 20), seed=0, count=2)) == 2


def test_the_count_is_of_clips_in_both_directions() -> None:
    four = open_source("arrow-of-time:synthetic", "val", spec=ClipSpec(3, 8, 8), seed=2, count=4)
    plain = open_source("synthetic", "val", spec=ClipSpec(3, 8, 8), seed=2, count=2)
    assert (len(four), len(plain)) == (4, 2)
    assert np.array_equal(four.load(2)[0], plain.load(1)[0])
    odd = open_source("arrow-of-time:synthetic", "val", spec=ClipSpec(3, 8, 8), seed=2, count=3)
    assert np.array_equal(odd.load(2)[0], plain.load(1)[0])  # the third clip is the second one forwards


def test_wrong_data_behind_the_prefix_are_refused() -> None:
    with pytest.raises(OptionsError) as caught:
        open_source("arrow-of-time:no-such-folder", "test", spec=ClipSpec(3, 8, 8), seed=0, count=4)
    assert caught.value.pointer == "/data"
    with pytest.raises(OptionsError) as caught:
        open_source("arrow-of-time:synthetic", "exam", spec=ClipSpec(3, 8, 8), seed=0, count=4)
    assert caught.value.pointer == "/split"


def test_the_cache_of_a_run_keeps_one_direction(tmp_path: Path) -> None:
    options = TrainOptions("clstm", "x", data="arrow-of-time:synthetic", work=tmp_path, frames=3, drawn=8, pool=4, validate=2)
    train, val = open_sources(options)
    assert (len(train), len(val)) == (4, 2)
    plain = SyntheticSource("train", 0, 2, 3, 8, 8)
    for number in (1, 0, 3, 2):
        frames, target = train.load(number)
        expected = plain.load(number // 2)[0]
        assert np.array_equal(frames, expected[::-1] if number % 2 else expected)
        assert target == number % 2
    (file,) = (tmp_path / "cache").glob("*.frames")
    assert file.stat().st_size == 2 * 3 * 8 * 8 * 3


SPEC = ClipSpec(3, 8, 8, scale=2 / 255, mean=(1.0, 1.0, 1.0))


class Arrow(nn.Module):
    """Knows by heart which clips of the synthetic test split are played backwards; all others are forwards."""

    def __init__(self, count: int) -> None:
        super().__init__()
        source = SyntheticSource("test", 0, count, SPEC.frames, SPEC.height, SPEC.width)
        self.backwards = {np.ascontiguousarray(source.load(number)[0][::-1]).tobytes() for number in range(count)}

    def forward(self, clips: Tensor) -> Tensor:
        pixels = ((clips + 1) * 255 / 2).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous().numpy()
        return nn.functional.one_hot(torch.tensor([int(clip.tobytes() in self.backwards) for clip in pixels]), 2).float()


def test_a_clip_played_backwards_is_of_the_other_class() -> None:
    result = evaluate(Arrow(4), SPEC, (FORWARDS, BACKWARDS), data="arrow-of-time:synthetic", limit=8, reversed=True)
    assert (result["n"], result["f1"], result["confusion"]) == (8, 1.0, [[4, 0], [0, 4]])
    assert (result["reversed_n"], result["reversed_accuracy"], result["reversed_opposite"]) == (8, 0.0, 1.0)
    assert evaluate(Arrow(4), SPEC, (FORWARDS, BACKWARDS), data="arrow-of-time:synthetic", limit=3)["n"] == 3


def test_opposites_of_directions_are_counted_beside_those_of_motions() -> None:
    opposites = OPPOSITES | ARROW
    assert len(opposites) == len(OPPOSITES) + 2
    found = Predictions(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), backwards=np.array([1, 0, 0, 0]))
    assert backwards_scores(found, (FORWARDS, BACKWARDS), opposites) == {
        "reversed_n": 4, "reversed_accuracy": 0.25, "reversed_opposite": 0.75,
    }  # fmt: skip
