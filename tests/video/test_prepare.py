"""Size and range of what a model sees."""

from __future__ import annotations

import numpy as np
import pytest

from chronolens.clips import ClipSpec
from chronolens.video.prepare import prepare, resize_frames


def test_values_by_hand() -> None:
    frames = np.zeros((2, 2, 2, 3), dtype=np.uint8)
    frames[1, 0, 1] = (255, 51, 0)
    spec = ClipSpec(frames=2, height=2, width=2, scale=2 / 255, mean=(1.0, 1.0, 1.0))
    clip = prepare(frames, spec)
    assert (clip.shape, clip.dtype) == ((1, 3, 2, 2, 2), np.float32)
    np.testing.assert_allclose(clip[0, :, 1, 0, 1], [1.0, -0.6, -1.0], atol=1e-6)
    np.testing.assert_allclose(clip[0, :, 0], -1.0)


def test_mean_and_std_belong_to_channels() -> None:
    frames = np.full((1, 1, 1, 3), 100, dtype=np.uint8)
    spec = ClipSpec(frames=1, height=1, width=1, mean=(100.0, 90.0, 80.0), std=(1.0, 2.0, 4.0))
    np.testing.assert_allclose(prepare(frames, spec)[0, :, 0, 0, 0], [0.0, 5.0, 5.0])


def test_shrinking_averages_areas() -> None:
    frames = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    frames[0, :2, :2] = [[[0], [40]], [[80], [120]]]
    assert resize_frames(frames, 2, 2)[0, :, :, 0].tolist() == [[60, 0], [0, 0]]


def test_enlarging_and_odd_aspect_ratios() -> None:
    frames = np.full((3, 5, 9, 3), 77, dtype=np.uint8)
    resized = resize_frames(frames, 12, 8)
    assert resized.shape == (3, 12, 8, 3)
    assert (resized == 77).all()
    assert resize_frames(frames, 5, 9) is frames


@pytest.mark.parametrize("shape", [(3, 4, 4, 3), (2, 4, 4), (2, 4, 4, 1)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        prepare(np.zeros(shape, dtype=np.uint8), ClipSpec(frames=2, height=4, width=4))
