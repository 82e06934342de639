"""Scores, drops, chance, segments and blobs."""

import json
import math

import numpy as np
import pytest
import torch

from chronolens.errors import NonFiniteResultError, UnknownClassError
from chronolens.explain.blobs import blob_statistics, find_blobs
from chronolens.explain.drops import drop
from chronolens.explain.known import Known, Row
from chronolens.explain.objective import operator_matrix
from chronolens.explain.protocol import Passes
from chronolens.explain.scores import explain_scores
from chronolens.explain.segments import active, length, segments
from chronolens.explain.trust import better_than_chance


def probability(logit):
    return pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)


def test_scores_by_pencil(score_model, clip_of):
    # Brightness 0 1 2 4; logit of class 0 = b3 - b1, that is 3.
    model, clip = score_model(lambda b: b[:, 3] - b[:, 1]), clip_of([0.0, 1.0, 2.0, 4.0])
    found = explain_scores(model, clip, 0, [0.0, 0.0, 0.6, 0.8], [0.0, 0.2, 0.4, 0.7])
    soft, hard = found["soft"], found["thresholded"]
    for table in (soft, hard):
        assert table["original"] == probability(3)
        assert table["fully_frozen"] == probability(0)
        assert table["fully_reversed"] == probability(0 - 2)  # 4 2 1 0
    # Freeze mask 0 0 .6 .8: p2 = .4*2 + .6*1 = 1.4, p3 = .2*4 + .8*1.4 = 1.92. Thresholded: p3 = p2 = p1 = 1.
    assert (soft["freeze"], hard["freeze"]) == (probability(0.92), probability(0))
    # The reverse operator on the freeze mask: run 2..3, v = .6: p3 = .4*4 + .6*2 = 2.8. Thresholded: p3 = 2.
    assert (soft["reverse"], hard["reverse"]) == (probability(1.8), probability(1))
    # Learned reverse mask: run 1..3, v = .2: p3 = .8*4 + .2*1 = 3.4, p1 = .8*1 + .2*4 = 1.6. Thresholded: only frame 3 is on, a run of one.
    assert (soft["reverse_learned"], hard["reverse_learned"]) == (probability(1.8), probability(3))
    # Nine perturbations, of which one changes nothing: the thresholded reverse mask 0 0 0 1, a run of one frame.
    assert found["passes"] == Passes(8)
    assert sum(model.calls) == 8
    # The symmetric rule: v = (.6 + .8) / 2 = .7, p3 = .3*4 + .7*2 = 2.6.
    assert explain_scores(model, clip, 0, [0.0, 0.0, 0.6, 0.8], None, pair="mean")["soft"]["reverse"] == probability(1.6)


def test_scores_that_were_not_asked_for(score_model, clip_of):
    model, clip = score_model(lambda b: b[:, 3] - b[:, 1]), clip_of([0.0, 1.0, 2.0, 4.0])
    bare = explain_scores(model, clip, 1, None, None)
    assert bare["passes"] == Passes(3)
    assert bare["soft"] == bare["thresholded"]
    assert [name for name, score in bare["soft"].items() if score is None] == ["freeze", "reverse", "reverse_learned"]


def test_scores_that_are_known_cost_nothing(score_model, clip_of):
    model, clip = score_model(lambda b: b[:, 3] - b[:, 1]), clip_of([0.0, 1.0, 2.0, 4.0])
    known = Known([(Row("freeze", (0.0,) * 4), 0.25), (Row("freeze", (0.0, 1.0, 1.0, 1.0)), 0.5), (Row("reverse", (1.0,) * 4), 0.75)])
    found = explain_scores(model, clip, 0, [0.0, 1.0, 1.0, 1.0], None, known=known)
    # what was known is believed: the clip itself, every frame frozen (frame 0 makes no difference), the clip backwards
    assert (found["soft"]["original"], found["soft"]["fully_frozen"], found["soft"]["fully_reversed"]) == (0.25, 0.5, 0.75)
    assert found["soft"]["freeze"] == found["thresholded"]["freeze"] == 0.5
    assert found["passes"] == Passes(1)  # the reverse operator on 0 1 1 1, once for soft and thresholded
    assert known.get(Row("reverse", (0.0, 1.0, 1.0, 1.0))) == found["soft"]["reverse"] == probability(1 - 4)
    chance, passes = better_than_chance(model, clip, 0, [0.0, 1.0, 1.0, 1.0], "reverse", known=known)
    assert (chance["windows"], passes) == (1, Passes(1))  # 1 1 1 0; the mask's own score is known by now
    again, none = better_than_chance(model, clip, 0, [0.0, 1.0, 1.0, 1.0], "reverse", known=known)
    assert (again, none) == (chance, Passes(0))
    assert Known.from_json(json.loads(json.dumps(known.to_json()))) == known
    assert len(known) == 5


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Row("freeze", (1.0, 0.0, 0.5)), Row("freeze", (0.0, 0.0, 0.5)), True),  # frame 0 has none before it
        (Row("freeze", (1.0, 0.0, 0.0)), Row("reverse", (0.0, 0.0, 0.0)), True),  # the clip as it is
        (Row("reverse", (0.0, 1.0, 0.0)), Row("freeze", (0.0, 0.0, 0.0)), True),  # a run of one frame
        (Row("reverse", (0.6, 0.9, 0.6)), Row("reverse", (0.6, 0.2, 0.6)), True),  # the middle of a run stays
        (Row("reverse", (0.6, 0.9, 0.2)), Row("reverse", (0.6, 0.9, 0.4)), True),  # the earlier value of a pair counts
        (Row("reverse", (0.6, 0.9, 0.2), "mean"), Row("reverse", (0.6, 0.9, 0.4), "mean"), False),
        (Row("reverse", (0.6, 0.9, 0.6), "mean"), Row("reverse", (0.6, 0.9, 0.6), "earlier"), True),
        (Row("reverse", (1.0, 1.0, 1.0), "mean", 0.1), Row("reverse", (1.0, 1.0, 1.0), "mean", 1.0), False),  # nothing is above 1
        (Row("reverse", (0.6, 0.3, 0.6), "mean", 0.2), Row("reverse", (0.6, 0.3, 0.6), "mean", 0.4), False),
        (Row("freeze", (0.0, 1.0, 1.0)), Row("reverse", (0.0, 1.0, 1.0)), False),
    ],
)
def test_what_makes_two_perturbations_the_same(one, other, same):
    assert (one.key() == other.key()) == same
    masks = [torch.tensor([row.values], dtype=torch.float64) for row in (one, other)]
    matrices = [operator_matrix(row.operator, mask, row.pair, row.threshold) for row, mask in zip((one, other), masks, strict=True)]
    assert torch.allclose(*matrices) == same


def test_a_threshold_that_nothing_passes_does_not_reach_the_fully_reversed_score(score_model, clip_of):
    model, clip = score_model(lambda b: b[:, 3] - b[:, 1]), clip_of([0.0, 1.0, 2.0, 4.0])
    found = explain_scores(model, clip, 0, [1.0] * 4, None, threshold=1.0)
    assert found["soft"]["reverse"] == found["soft"]["original"] == probability(3)
    assert found["soft"]["fully_reversed"] == probability(-2)


def test_scores_of_wrong_classes_and_broken_networks(score_model, clip_of):
    clip = clip_of([0.0, 1.0])
    model = score_model(lambda b: b[:, 1])
    for target in (2, -1):
        with pytest.raises(UnknownClassError) as caught:
            explain_scores(model, clip, target, None, None)
        assert caught.value.pointer == "/target"
    with pytest.raises(ValueError, match="does not fit"):
        explain_scores(model, clip, 0, [0.0] * 3, None)
    known = Known()
    with pytest.raises(NonFiniteResultError):
        explain_scores(score_model(lambda b: b[:, 1] / 0), clip, 0, None, None, known=known)
    assert len(known) == 0


def test_drops_by_pencil():
    found = drop(0.9, 0.1, 0.5)
    assert found["freeze"] == pytest.approx(0.8)
    assert found["reverse"] == pytest.approx(0.4)
    assert found["ratio"] == pytest.approx(2.0)
    assert found["difference"] == pytest.approx(0.4)
    assert found["reason"] is None
    for freeze, reverse, word in [(0.8995, 0.5, "freezing"), (0.1, 0.95, "reversing"), (None, None, "mask")]:
        found = drop(0.9, freeze, reverse)
        assert found["ratio"] is None
        assert word in found["reason"]
    assert found["difference"] is None


def test_better_than_chance_by_pencil(score_model, clip_of):
    # Only the change from frame 3 to 4 counts. Of the 6 windows of length 3 in 8 frames, freezing 2..4, 3..5 or 4..6 removes it.
    model, clip = score_model(lambda b: 5 * (b[:, 4] - b[:, 3])), clip_of([0.0] * 4 + [1.0] * 4)
    good, bad = [0, 0, 0, 0.9, 0.8, 0.6, 0, 0.5], [1, 1, 1, 0, 0, 0, 0, 0]
    assert better_than_chance(model, clip, 0, good, "freeze") == ({"p_value": 3 / 6, "windows": 5}, Passes(6))
    assert better_than_chance(model, clip, 0, bad, "freeze") == ({"p_value": 1.0, "windows": 5}, Passes(6))
    # A mask that is no window is compared with all six.
    assert better_than_chance(model, clip, 0, [1, 0, 0, 0, 1, 0, 0, 1], "freeze")[0] == {"p_value": 4 / 7, "windows": 6}
    for mask in ([0.0] * 8, [1.0] * 8):
        assert better_than_chance(model, clip, 0, mask, "reverse") == ({"p_value": None, "windows": 0}, Passes(0))
    # Reversing 2..5 swaps frames 3 and 4: the logit -5. No other window of four does: 1..4 gives b_3 = 0, b_4 = 0, 3..6 gives 1 and 1.
    assert better_than_chance(model, clip, 0, [0, 0, 1, 1, 1, 1, 0, 0], "reverse")[0] == {"p_value": 1 / 5, "windows": 4}


def test_segments_by_pencil():
    values, indices = [0.6, 0.4, 0.9, 0.9, 0.5, 1.0], [1, 4, 7, 10, 13, 16]
    times = [0.1, 0.4, 0.7, 1.0, 1.3, 1.6]
    found = segments(values, indices, times)
    assert [(s["first_frame"], s["last_frame"]) for s in found] == [(1, 1), (7, 10), (16, 16)]
    assert [(s["start_s"], s["end_s"]) for s in found] == [(0.1, 0.4), (0.7, 1.3), (1.6, pytest.approx(1.9))]
    assert segments(values, indices, times, until_s=1.7)[-1]["end_s"] == 1.7
    assert (length(values), length(values, 0.95), active([0.5, 0.51])) == (4, 1, [False, True])
    assert segments([0.0] * 6, indices, times) == []
    with pytest.raises(ValueError, match="belong together"):
        segments(values, indices, times[:-1])


def test_segments_of_a_short_source():
    # two frames, each shown twice to the model
    found = segments([0, 1, 1, 1], [0, 0, 1, 1], [0.0, 0.0, 0.5, 0.5], until_s=1.0)
    assert found == [{"first_frame": 0, "last_frame": 1, "start_s": 0.0, "end_s": 1.0}]
    assert segments([1], [0], [0.0], until_s=0.04)[0]["end_s"] == 0.04
    assert segments([], [], []) == []
    # MMAction2 begins a short clip again: masked to its end and from its beginning on are two stretches
    again = segments([0, 1, 1, 1, 0], [0, 4, 8, 0, 4], [0.0, 0.4, 0.8, 0.0, 0.4], until_s=1.0)
    assert [(one["first_frame"], one["last_frame"], one["start_s"], one["end_s"]) for one in again] == [(4, 8, 0.4, 1.0), (0, 0, 0.0, 0.4)]


def disc(x, y, radius, size=100):
    rows, columns = np.mgrid[:size, :size]
    return np.where(np.hypot(rows - y, columns - x) <= radius, 1.0, 0.0)


def test_blobs_of_known_discs():
    # Two discs of diameter about 20, 30 px left and right of the centre (49.5, 49.5), in frame 0; nothing in frame 1.
    first = np.maximum(disc(19.5, 49.5, 10), disc(79.5, 49.5, 10))
    blobs = sorted(find_blobs(first, 100, 100), key=lambda blob: blob.x)
    assert [round(blob.x) for blob in blobs] in ([20, 80], [19, 79], [20, 79], [19, 80])
    found = blob_statistics(np.stack([first, np.zeros((100, 100))]), 100, 100)
    assert found["count_per_frame"] == 1.0
    assert found["mean_size_px"] == pytest.approx(20, abs=1.5)
    assert found["mean_center_distance_px"] == pytest.approx(30, abs=0.5)


def test_blobs_of_an_enlarged_map():
    # the middle cell of a 7x7 map becomes one blob in the middle of a frame of 160 x 112; the scale of the map does not matter
    heat = np.zeros((1, 7, 7), dtype=np.float32)
    heat[0, 3, 3] = 1.0
    found = blob_statistics(heat, 112, 160)
    assert blob_statistics(heat * 37, 112, 160) == found
    assert blob_statistics(heat / 4096, 112, 160) == found
    assert found["count_per_frame"] == 1.0
    assert found["mean_center_distance_px"] == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("maps", [np.zeros((3, 7, 7)), np.full((3, 7, 7), 0.1), np.zeros((0, 7, 7))])
def test_no_blobs_give_nulls(maps):
    assert blob_statistics(maps, 112, 112) == {"count_per_frame": 0.0, "mean_size_px": None, "mean_center_distance_px": None}


def test_light_modules_leave_torch_alone():
    import subprocess
    import sys

    code = "import sys, chronolens.explain.drops, chronolens.explain.segments, chronolens.explain.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scores_do_not_touch_the_network(score_model, clip_of):
    model = score_model(lambda b: b[:, 1])
    model.weight = torch.nn.Parameter(torch.ones(1))
    explain_scores(model, clip_of([0.0, 1.0]), 0, [0.0, 1.0], None)
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None
