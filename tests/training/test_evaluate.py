"""Figures by hand: confusion, macro F1, and what is counted for reversed clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chronolens.clips import ClipSpec
from chronolens.data.source import SyntheticSource
from chronolens.data.synthetic import LABELS, OPPOSITES, make_clip
from chronolens.errors import OptionsError
from chronolens.training.evaluate import Predictions, backwards_scores, confusion, evaluate, macro_f1, scores

SPEC = ClipSpec(4, 12, 12, scale=2 / 255, mean=(1.0, 1.0, 1.0))


class Oracle(nn.Module):
    """Knows the clips by their pixels: the true class forwards, the opposite backwards, ``Holding something`` when all frames are equal."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        self.known: dict[bytes, int] = {}
        source = SyntheticSource("test", seed, count, SPEC.frames, SPEC.height, SPEC.width)
        for number in range(count):
            frames, target = source.load(number)
            label = LABELS[target]
            self.known[frames.tobytes()] = target
            self.known[frames[::-1].tobytes()] = LABELS.index(OPPOSITES.get(label, label))

    def forward(self, clips: Tensor) -> Tensor:
        pixels = ((clips + 1) * 255 / 2).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous().numpy()
        found = [self.known.get(clip.tobytes(), LABELS.index("Holding something")) for clip in pixels]
        return nn.functional.one_hot(torch.tensor(found), len(LABELS)).float()


def test_a_perfect_model_has_f1_one() -> None:
    result = evaluate(Oracle(32, 5), SPEC, LABELS, seed=5, limit=32, reversed=True, frozen=True)
    assert (result["f1"], result["accuracy"], result["n"]) == (1.0, 1.0, 32)
    assert (result["reversed_accuracy"], result["reversed_opposite"], result["reversed_n"]) == (0.0, 1.0, 24)
    assert np.array_equal(result["confusion"], np.eye(16, dtype=int) * 2)
    # all 32 frozen clips are taken for one class with 2 clips: precision 2/32, recall 1, the other classes 0
    assert result["frozen_f1"] == pytest.approx(2 * 2 / (2 + 32) / 16)


def test_without_the_options_the_keys_are_left_out() -> None:
    result = evaluate(Oracle(16, 1), SPEC, LABELS, seed=1, limit=16)
    assert "reversed_accuracy" not in result
    assert "frozen_f1" not in result


def test_other_classes_are_refused() -> None:
    with pytest.raises(OptionsError, match="classes"):
        evaluate(nn.Identity(), SPEC, LABELS[:3], limit=16)


@pytest.mark.parametrize("wrong", [{"split": "exam"}, {"seed": -1}, {"data": "no-such-folder"}])
def test_wrong_data_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionsError):
        evaluate(nn.Identity(), SPEC, LABELS, limit=16, **wrong)


def test_confusion_and_macro_f1_by_hand() -> None:
    truth, said = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    counts = confusion(truth, said, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # class 0: 2*1/(2+2); class 1: 2*2/(2+3); class 2: 0; class 3 does not occur
    assert macro_f1(counts) == pytest.approx((0.5 + 0.8 + 0.0) / 3)
    assert scores(Predictions(truth, said), 4)["accuracy"] == pytest.approx(0.6)


def test_reversed_clips_count_only_with_an_opposite() -> None:
    classes = ("up", "down", "hold")
    found = Predictions(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2]), backwards=np.array([1, 0, 0, 1]))
    result = backwards_scores(found, classes, {"up": "down", "down": "up"})
    assert result == {"reversed_n": 3, "reversed_accuracy": pytest.approx(1 / 3), "reversed_opposite": pytest.approx(2 / 3)}
    assert backwards_scores(found, classes, {})["reversed_accuracy"] is None


def test_a_clip_played_backwards_is_a_clip_of_the_opposite_class() -> None:
    """The boxes of reversed clips go where the opposite label says."""
    clip = make_clip("test", 0, 0, "Moving something up")
    boxes = np.array(clip.record()["boxes"])[0, ::-1]
    assert boxes[-1, 1] > boxes[0, 1] + 0.2
    assert OPPOSITES[clip.label] == "Moving something down"
