"""Size, range and channel order of what a model sees."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import numpy.typing as npt
import pytest

from chronolens.clips import ClipSpec
from chronolens.video.prepare import crop_window, fit_frames, prepare

BORDER = np.array([[(x * 37 + y * 59 + x * y * 11) % 256 for x in range(7)] for y in range(5)], np.uint8)


def frames_of(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One frame whose three channels all show the picture."""
    return np.repeat(picture[None, :, :, None], 3, axis=3)


def ramp(rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """One frame that tells in red which column and in green which row a pixel is; at most 256 of each."""
    frame = np.zeros((1, rows, columns, 3), np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(columns)[None, None], np.arange(rows)[None, :, None]
    return frame


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


def test_mean_and_std_count_in_the_order_of_the_channels() -> None:
    frames = np.array([10, 20, 30], dtype=np.uint8).reshape(1, 1, 1, 3)
    spec = ClipSpec(1, 1, 1, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 1.0), channels="bgr")
    np.testing.assert_allclose(prepare(frames, spec)[0, :, 0, 0, 0], [29.0, 9.0, 7.0])


@pytest.mark.parametrize("shape", [(3, 4, 4, 3), (2, 4, 4), (2, 4, 4, 1), (2, 4, 5, 3)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        prepare(np.zeros(shape, dtype=np.uint8), ClipSpec(frames=2, height=4, width=4))


def test_shrinking_averages_areas() -> None:
    frames = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    frames[0, :2, :2] = [[[0], [40]], [[80], [120]]]
    assert fit_frames(frames, ClipSpec(1, 2, 2))[0, :, :, 0].tolist() == [[60, 0], [0, 0]]


def test_enlarging_and_odd_aspect_ratios() -> None:
    frames = np.full((3, 5, 9, 3), 77, dtype=np.uint8)
    fitted = fit_frames(frames, ClipSpec(3, 12, 8))
    assert fitted.shape == (3, 12, 8, 3)
    assert (fitted == 77).all()
    assert np.shares_memory(fit_frames(frames, ClipSpec(3, 5, 9)), frames)


def test_bilinear_looks_at_the_four_nearest_pixels_only() -> None:
    row = frames_of(np.array([[0, 10, 20, 30, 40, 50, 60, 250]], np.uint8))
    # pixel centres of the result lie at 1.5 and 5.5 of the source
    assert fit_frames(row, ClipSpec(1, 1, 2, interpolation="bilinear"))[0, 0, :, 0].tolist() == [15, 55]
    # the triangle of Pillow reaches over 4 pixels to each side: weights 1 3 5 7 7 5 3 1, cut off at the border
    weights = np.array([[5, 7, 7, 5, 3, 1, 0, 0], [0, 0, 1, 3, 5, 7, 7, 5]])
    expected = np.round((weights * row[0, 0, :, 0]).sum(1) / weights.sum(1))
    assert fit_frames(row, ClipSpec(1, 1, 2, interpolation="pil"))[0, 0, :, 0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((3, 4), [[47, 112, 167, 149], [146, 155, 127, 134], [176, 135, 126, 122]]),
        ((2, 7), [[59, 107, 143, 133, 181, 113, 161], [177, 166, 131, 143, 131, 85, 155]]),
        ((5, 3), [[32, 111, 190], [100, 188, 105], [169, 114, 165], [182, 131, 80], [141, 148, 141]]),
        (
            (8, 9),
            [
                [0, 25, 53, 82, 111, 140, 169, 197, 222],
                [26, 54, 86, 119, 151, 184, 154, 137, 165],
                [63, 95, 133, 168, 193, 230, 135, 66, 99],
                [100, 136, 180, 184, 90, 133, 132, 140, 177],
                [136, 178, 191, 156, 68, 116, 121, 134, 175],
                [173, 220, 166, 84, 125, 179, 100, 47, 93],
                [210, 165, 126, 124, 183, 130, 95, 104, 155],
                [236, 119, 97, 160, 223, 87, 93, 156, 210],
            ],
        ),
    ],
)
def test_pil_gives_the_answers_of_pillow(size: tuple[int, int], expected: list[list[int]]) -> None:
    """Stored answers of ``Image.resize(..., BILINEAR)``, Pillow 10.4."""
    assert fit_frames(frames_of(BORDER), ClipSpec(1, *size, interpolation="pil"))[0, :, :, 1].tolist() == expected


def test_bilinear_is_that_of_torch() -> None:
    import torch

    frames = np.random.default_rng(0).integers(0, 256, (2, 45, 80, 3), dtype=np.uint8)
    for size in ((32, 57), (64, 113)):
        fitted = fit_frames(frames, ClipSpec(2, *size, interpolation="bilinear")).astype(np.float32)
        planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
        exact = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        assert np.abs(fitted - exact.numpy()).max() < 1.0  # half a level of rounding, and weights of 11 bits


# What the three crops leave out of pictures of 10 x 7, 10 x 4 and 13 x 5 pixels (columns x rows), short side unscaled: by hand.
@pytest.mark.parametrize(
    ("resize", "corners"),
    [
        ("crop", [(2, 3), (0, 3), (0, 4)]),  # (7 - 4) / 2 = 1.5 -> 2, (13 - 4) / 2 = 4.5 -> 4, (5 - 4) / 2 = 0.5 -> 0
        ("crop-pyslowfast", [(2, 3), (0, 3), (1, 5)]),
        ("crop-mmaction2", [(1, 3), (0, 3), (0, 4)]),
    ],
)
def test_which_middle_is_cut_out(resize: str, corners: list[tuple[int, int]]) -> None:
    for (columns, rows), (top, left) in zip([(10, 7), (10, 4), (13, 5)], corners, strict=True):
        spec = ClipSpec(1, 4, 4, resize=resize, short_side=rows)
        fitted = fit_frames(ramp(rows, columns), spec)[0]
        assert (fitted[0, :, 0].tolist(), fitted[:, 0, 1].tolist()) == (list(range(left, left + 4)), list(range(top, top + 4)))
        assert crop_window(rows, columns, spec) == (top, left, 4, 4)


@pytest.mark.parametrize(
    ("resize", "height", "width", "window"),
    [
        # 240 x 427 becomes 256 x 455.47: 455 columns, 231 to spare
        ("crop", 240, 427, (16 * 240 / 256, 116 * 427 / 455, 224 * 240 / 256, 224 * 427 / 455)),
        ("crop-pyslowfast", 240, 427, (16 * 240 / 256, 116 * 427 / 455, 224 * 240 / 256, 224 * 427 / 455)),
        ("crop-mmaction2", 240, 427, (16 * 240 / 256, 115 * 427 / 455, 224 * 240 / 256, 224 * 427 / 455)),
        # 240 x 428 becomes 256 x 456.53: MMAction2 rounds up
        ("crop", 428, 240, (116 * 428 / 456, 16 * 240 / 256, 224 * 428 / 456, 224 * 240 / 256)),
        ("crop-mmaction2", 428, 240, (116 * 428 / 457, 16 * 240 / 256, 224 * 428 / 457, 224 * 240 / 256)),
    ],
)
def test_part_of_the_source_that_a_crop_shows(resize: str, height: int, width: int, window: tuple[float, ...]) -> None:
    spec = ClipSpec(8, 224, 224, resize=resize, short_side=256)
    assert crop_window(height, width, spec) == pytest.approx(window)
    assert fit_frames(np.zeros((1, height, width, 3), np.uint8), spec).shape == (1, 224, 224, 3)


def test_stretched_pictures_are_seen_whole() -> None:
    assert crop_window(333, 77, ClipSpec(1, 112, 112)) == (0.0, 0.0, 333.0, 77.0)


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "pil"])
def test_cropping_is_scaling_and_then_cutting(interpolation: str) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, 30, 50, 3), dtype=np.uint8)
    whole = fit_frames(frames, ClipSpec(2, 20, 33, interpolation=interpolation))
    cropped = fit_frames(frames, ClipSpec(2, 16, 16, resize="crop", short_side=20, interpolation=interpolation))
    np.testing.assert_array_equal(cropped, whole[:, 2:18, 8:24])


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize": "squeeze"},
        {"interpolation": "cubic"},
        {"channels": "grb"},
        {"sampling": "random"},
        {"interval": 2},
        {"sampling": "mmaction2", "interval": 0},
        {"short_side": 256},
        {"resize": "crop"},
        {"resize": "crop", "short_side": 223},
        {"resize": "crop", "short_side": 256.0},
        {"resize": "crop", "short_side": 100_000},
        *({"frames": value} for value in (0, -1, 8.5, 8.0, "8", True, None, 1025)),
        *({name: value} for name in ("height", "width") for value in (0, -1, 8.5, "8", True, 4097)),
        *({"sampling": "mmaction2", "interval": value} for value in (2.5, "2", True, 10_001)),
        *({"scale": value} for value in (math.nan, math.inf, "1", None, True, (1.0, 1.0, 1.0))),
        *(
            {name: value}
            for name in ("mean", "std")
            for value in ((1.0, 1.0), [1.0] * 4, 1.0, "abc", (1.0, 1.0, math.nan), (1.0, 1.0, "1"))
        ),
        {"std": (1.0, 0.0, 1.0)},
        {"std": (1.0, 1.0, -1.0)},
    ],
)
def test_specs_that_say_nothing_sensible_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ClipSpec(**{"frames": 8, "height": 128, "width": 224, **wrong})  # type: ignore[arg-type]


def test_a_spec_survives_json_where_tuples_become_lists() -> None:
    spec = ClipSpec(8, 24, 32, "mmaction2", 1 / 255, (0.1, 0.2, 0.3), (1, 2, 3), 2, "crop", 40, "pil", "bgr")
    again = ClipSpec(**json.loads(json.dumps(dataclasses.asdict(spec))))
    assert again == spec
    assert hash(again) == hash(spec)
    assert ClipSpec(1024, 4096, 4096, "mmaction2", interval=10_000).frames == 1024
