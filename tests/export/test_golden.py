"""The golden clip is the same everywhere, moves, and tells a model that answers from one that does not."""

import hashlib

import numpy as np
import pytest

from chronolens.clips import ClipSpec
from chronolens.errors import WeightsError
from chronolens.golden import check_golden, golden_frames

SPEC = ClipSpec(16, 40, 56)


def test_every_machine_makes_the_same_bytes():
    frames = golden_frames(ClipSpec(8, 32, 32))
    assert (frames.shape, frames.dtype) == ((8, 32, 32, 3), np.uint8)
    assert hashlib.sha256(frames.tobytes()).hexdigest() == "70521c095c82185748203584ecbd251ec3e12a27b8ae894e3c71624c5f147b8b"
    assert frames.flags["C_CONTIGUOUS"]


def test_a_bright_block_crosses_the_clip_in_its_middle_half():
    bright = golden_frames(SPEC).min(axis=3) >= 180
    lefts = [int(np.flatnonzero(frame.any(axis=0))[0]) for frame in bright]
    widths = {int(frame.any(axis=0).sum()) for frame in bright}
    assert widths == {14}
    assert {lefts[0], lefts[-1]} == {0, 42}
    assert lefts[:5] == lefts[:1] * 5
    assert lefts[12:] == lefts[12:13] * 4
    assert len(set(lefts[4:13])) == 9


def test_seeds_differ_and_tiny_clips_work():
    assert (golden_frames(SPEC, 0) != golden_frames(SPEC, 1)).mean() > 0.5
    assert golden_frames(ClipSpec(1, 1, 1), 5).shape == (1, 1, 1, 3)


@pytest.mark.parametrize("found", [[0.2, 0.8], [0.2011, 0.7989, 0.0], [0.2, np.nan, 0.0]])
def test_other_scores_are_refused(found):
    with pytest.raises(WeightsError) as caught:
        check_golden(found, [0.2, 0.8, 0.0])
    assert caught.value.code == "golden-clip"


def test_scores_within_the_limit_pass():
    check_golden(np.float32([0.2009, 0.7991, 0.0]), [0.2, 0.8, 0.0])
