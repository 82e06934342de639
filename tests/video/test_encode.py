"""Encoding: exact times, right colours, nothing but the pictures in the file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from tests.video.conftest import numbered, numbers

from chronolens.video.decode import decode_clip
from chronolens.video.encode import to_ticks, write_h264

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (200, 100, 50), (128, 128, 128)]


def centre_times(count: int, seconds: float) -> np.ndarray:
    return (np.arange(count) + 0.5) * seconds / count


def test_sixteen_frames_of_four_seconds_last_four_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_h264(path, numbered(16), centre_times(16, 4.0))
    with av.open(str(path)) as container:
        assert container.duration == 4_000_000
        assert container.streams.video[0].frames == 16
    clip = decode_clip(path, 16)
    np.testing.assert_array_equal(clip.timestamps_s, np.arange(16) * 0.25)
    assert clip.info.duration_s == 4.0
    assert numbers(clip.frames) == list(range(16))


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    path, times = tmp_path / "a.mp4", [0.0, 0.1, 0.5, 0.54, 2.0]
    write_h264(path, iter(numbered(5)), times)
    clip = decode_clip(path, 5)
    np.testing.assert_allclose(clip.timestamps_s, times, atol=1 / 90_000)
    assert clip.info.duration_s == pytest.approx(2.0 + 1.46, abs=1e-4)


def test_ticks_of_repeated_frames_move_on() -> None:
    assert to_ticks([1.0, 1.0, 1.0, 1.5]) == [0, 90, 180, 45_000]
    assert to_ticks([2.0, 1.0]) == [0, 90]


def test_repeated_frames_do_not_shorten_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_h264(path, numbered(6), [0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    with av.open(str(path)) as container:
        assert container.duration == pytest.approx(1_500_000, abs=2_000)


def test_same_input_gives_same_bytes_and_no_metadata(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_h264(tmp_path / name, numbered(8), centre_times(8, 1.0))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert not any(word in data for word in (b"x264", b"Lavf", b"Lavc"))
    assert data.find(b"moov") < data.find(b"mdat")


def test_colours_are_bt709_limited_and_come_back(tmp_path: Path) -> None:
    frames = np.stack([np.full((64, 64, 3), colour, dtype=np.uint8) for colour in COLOURS])
    path = tmp_path / "a.mp4"
    write_h264(path, frames, centre_times(6, 1.0))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        assert (tags, context.pix_fmt) == ((1, 1, 1, 1), "yuv420p")
    decoded = decode_clip(path, 6).frames
    assert np.abs(decoded.astype(int) - frames).max() <= 3


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path: Path) -> None:
    frames = np.full((2, 33, 47, 3), 100, dtype=np.uint8)
    frames[:, -1], frames[:, :, -1] = 200, 200
    path = tmp_path / "a.mp4"
    write_h264(path, frames, [0.0, 1.0], crf=0)
    decoded = decode_clip(path, 2).frames
    assert decoded.shape == (2, 34, 48, 3)
    assert np.abs(decoded[:, -2:].astype(int) - 200).max() <= 2
    assert np.abs(decoded[:, :32, :46].astype(int) - 100).max() <= 2


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_h264(path, numbered(1), [7.5])
    with av.open(str(path)) as container:
        assert container.duration == 40_000


@pytest.mark.parametrize("times", [[0.0], [0.0, 1.0, 2.0], [0.0, float("nan")]])
def test_times_must_fit_the_frames(tmp_path: Path, times: list[float]) -> None:
    with pytest.raises(ValueError, match="timestamps"):
        write_h264(tmp_path / "a.mp4", numbered(2), times)


def test_frames_must_be_alike(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected uint8 frames"):
        write_h264(tmp_path / "a.mp4", [numbered(1)[0], numbered(1, 32, 32)[0]], [0.0, 1.0])
    with pytest.raises(ValueError, match="no frames"):
        write_h264(tmp_path / "b.mp4", [], [])
