"""Decoding of good clips: right frames, right times, right colours, right facts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from tests.video.conftest import Make, numbered, numbers, write_clip

from chronolens.errors import OptionsError
from chronolens.sampling import sample_indices
from chronolens.video.decode import DecodeLimits, decode_clip, upright

SHARP = {"qmin": "1", "qmax": "2"}
KINDS = [
    ("a.mp4", "libx264", "yuv420p", "mp4", "h264"),
    ("a.mov", "libx264", "yuv420p", "mp4", "h264"),
    ("a.mkv", "libx264", "yuv420p", "matroska", "h264"),
    ("b.mp4", "libx265", "yuv420p", "mp4", "hevc"),
    ("a.webm", "libvpx-vp9", "yuv420p", "matroska", "vp9"),
    ("b.webm", "libvpx", "yuv420p", "matroska", "vp8"),
    ("b.mkv", "libsvtav1", "yuv420p", "matroska", "av1"),
    ("a.avi", "mpeg4", "yuv420p", "avi", "mpeg4"),
    ("b.avi", "mjpeg", "yuvj420p", "avi", "mjpeg"),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "container", "codec_name"), KINDS)
def test_every_container_and_codec(make: Make, name: str, codec: str, pix_fmt: str, container: str, codec_name: str) -> None:
    options = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12"}, "mpeg4": SHARP}.get(codec, {})
    clip = decode_clip(make(name, 30, 64, 64, codec=codec, pix_fmt=pix_fmt, options=options), 8)
    wanted = sample_indices(30, 8).tolist()
    assert numbers(clip.frames) == clip.indices.tolist() == wanted
    np.testing.assert_allclose(clip.timestamps_s, np.array(wanted) / 10, atol=1e-3)
    assert (clip.info.container, clip.info.codec, clip.info.frames) == (container, codec_name, 30)
    assert (clip.info.width, clip.info.height) == (64, 64)
    assert clip.info.fps == pytest.approx(10.0, rel=1e-3)
    assert clip.info.duration_s == pytest.approx(3.0, abs=0.01)
    assert clip.warnings == []


def test_facts_about_the_file(make: Make) -> None:
    path = make("a.mp4", 20)
    assert decode_clip(path, 4).info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_variable_rate_with_b_frames_equals_reference(make: Make) -> None:
    times = [0, 30, 40, 200, 210, 220, 500, 900, 905, 1000, 1500, 1510, 1520, 1600, 2000, 2600, 2610, 3000, 3100, 3900]
    path = make("a.mkv", 20, times_ms=times, options={"bf": "3", "b-adapt": "0"})
    with av.open(str(path)) as container:
        packets = [packet.pts for packet in container.demux(video=0) if packet.size]
        assert packets != sorted(packets), "the clip must have B-frames"
    with av.open(str(path)) as container:
        reference = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    clip = decode_clip(path, 20)
    np.testing.assert_array_equal(clip.frames, reference)
    np.testing.assert_array_equal(clip.timestamps_s, np.array(times) / 1000)
    assert numbers(clip.frames) == list(range(20))


def test_b_frames_in_avi(make: Make) -> None:
    """AVI stores no presentation times; the decoder's order counts."""
    clip = decode_clip(make("a.avi", 21, codec="mpeg4", options={"bf": "2", **SHARP}), 21)
    assert numbers(clip.frames) == list(range(21))
    assert np.all(np.diff(clip.timestamps_s) > 0)


def test_short_clips_repeat_frames_with_a_warning(make: Make) -> None:
    clip = decode_clip(make("a.mp4", 3), 8)
    assert clip.indices.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert numbers(clip.frames) == clip.indices.tolist()
    assert clip.warnings == ["The clip has 3 frames and the model takes 8; frames are repeated."]


def test_part_of_a_clip(make: Make) -> None:
    path = make("a.mp4", 40)
    clip = decode_clip(path, 4, start_s=1.0, end_s=2.0)
    assert clip.indices.tolist() == [11, 13, 16, 18]
    assert numbers(clip.frames) == [11, 13, 16, 18]
    assert clip.info.frames == 40
    with pytest.raises(OptionsError) as caught:
        decode_clip(path, 4, start_s=9.0)
    assert caught.value.pointer == "/start_s"
    for start, end in ((-1.0, None), (2.0, 1.0), (float("nan"), None)):
        with pytest.raises(OptionsError):
            decode_clip(path, 4, start_s=start, end_s=end)


def test_wrong_arguments(make: Make) -> None:
    path = make("a.mp4", 4)
    with pytest.raises(ValueError, match="sample"):
        decode_clip(path, 0)
    with pytest.raises(ValueError, match="unknown sampling rule"):
        decode_clip(path, 4, rule="edges")


def test_tall_clips_come_with_720_rows(make: Make) -> None:
    clip = decode_clip(make("a.mp4", 2, 1440, 320, options={"preset": "ultrafast"}), 2)
    assert clip.frames.shape == (2, 720, 160, 3)
    assert (clip.info.width, clip.info.height) == (320, 1440)


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix into the track header of an MP4 file."""
    data, (a, b, c, d) = bytearray(path.read_bytes()), matrix
    start = data.find(b"tkhd") + 44
    values = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "bright", "shape"),
    [
        ((1, 0, 0, 1), (0, 0), (48, 64)),
        ((0, 1, -1, 0), (0, -1), (64, 48)),  # 90 degrees clockwise, as telephones write it
        ((-1, 0, 0, -1), (-1, -1), (48, 64)),
        ((0, -1, 1, 0), (-1, 0), (64, 48)),
        ((-1, 0, 0, 1), (0, -1), (48, 64)),  # mirrored
    ],
)
def test_display_matrix(tmp_path: Path, matrix: tuple[int, int, int, int], bright: tuple[int, int], shape: tuple[int, int]) -> None:
    """A bright mark in the upper left corner lands where the matrix sends it."""
    frames = np.full((4, 48, 64, 3), 40, dtype=np.uint8)
    frames[:, :16, :16] = 220
    clip = decode_clip(turned(write_clip(tmp_path / "a.mp4", frames), matrix), 4)
    assert clip.frames.shape[1:3] == (clip.info.height, clip.info.width) == shape
    y, x = (8 if place == 0 else -8 for place in bright)
    assert clip.frames[0, y, x].min() > 200
    assert clip.frames[0, -y, -x].max() < 60
    assert clip.warnings == []


def test_tall_after_turning_counts(make: Make) -> None:
    path = turned(make("a.mp4", 2, 160, 1440, options={"preset": "ultrafast"}), (0, 1, -1, 0))
    assert decode_clip(path, 2).frames.shape == (2, 720, 80, 3)


def test_odd_rotation_is_not_applied_but_told(tmp_path: Path) -> None:
    clip = decode_clip(turned(write_clip(tmp_path / "a.mp4", numbered(4)), (1, 1, -1, 1)), 4)
    assert clip.frames.shape == (4, 48, 64, 3)
    assert "quarter turn" in clip.warnings[0]


def test_upright_by_hand() -> None:
    frame = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    assert upright(frame, (0, 1, -1, 0))[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]
    assert upright(frame, (0, -1, 1, 0))[..., 0].tolist() == [[2, 5], [1, 4], [0, 3]]
    assert upright(frame, (-1, 0, 0, -1))[..., 0].tolist() == [[5, 4, 3], [2, 1, 0]]
    assert upright(frame, (0, 1, 1, 0))[..., 0].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p", "yuv422p", "yuvj420p"])
def test_uncommon_pixel_formats(make: Make, pix_fmt: str) -> None:
    clip = decode_clip(make("a.mkv", 12, pix_fmt=pix_fmt, options={"crf": "5"}), 12)
    assert clip.frames.dtype == np.uint8
    assert numbers(clip.frames) == list(range(12))


@pytest.mark.parametrize(("height", "width", "matrix"), [(720, 1280, "ITU709"), (240, 320, "ITU601")])
def test_untagged_colours_follow_the_size(tmp_path: Path, height: int, width: int, matrix: str) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        red = av.VideoFrame.from_ndarray(np.full((height, width, 3), (230, 30, 40), dtype=np.uint8), format="rgb24")
        frame = red.reformat(format="yuv420p", dst_colorspace=matrix)
        frame.colorspace = 2
        for number in range(2):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.abs(decode_clip(path, 2).frames[0, 100, 100].astype(int) - (230, 30, 40)).max() <= 3


def test_warnings_for_what_is_used_as_stored(tmp_path: Path) -> None:
    wide = write_clip(tmp_path / "a.mkv", numbered(4), sample_aspect_ratio=2)
    assert any("not square" in warning for warning in decode_clip(wide, 4).warnings)
    hdr = write_clip(tmp_path / "b.mkv", numbered(4), color_trc=16)
    assert any("HDR" in warning for warning in decode_clip(hdr, 4).warnings)
    clear = write_clip(tmp_path / "c.webm", numbered(4, 64, 64), codec="libvpx-vp9", pix_fmt="yuva420p")
    assert any("transparency" in warning for warning in decode_clip(clear, 4).warnings)


def test_black_and_equal_frames(tmp_path: Path) -> None:
    clip = decode_clip(write_clip(tmp_path / "a.mp4", np.zeros((6, 48, 64, 3), dtype=np.uint8)), 4)
    assert clip.frames.max() <= 1


def test_metadata_is_ignored(tmp_path: Path, make: Make) -> None:
    source, target = make("a.mp4", 6), tmp_path / "b.mkv"
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata["title"] = "<script>\x1b[31m" + "x" * 1_000_000
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    clip = decode_clip(target, 6)
    assert numbers(clip.frames) == list(range(6))
    assert "script" not in repr(clip.info) + repr(clip.warnings)


def test_polyglot_is_decoded_as_the_video_it_is(make: Make) -> None:
    path = make("a.mp4", 6)
    path.write_bytes(path.read_bytes() + b"PK\x03\x04<html><script>")
    assert numbers(decode_clip(path, 6).frames) == list(range(6))


def test_the_first_video_stream_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10, options=SHARP) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number, array in enumerate(numbered(20)):
            for stream, value in zip(streams, (array, 255 - array), strict=True):
                frame = av.VideoFrame.from_ndarray(value, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    assert numbers(decode_clip(path, 4, limits=DecodeLimits(max_streams=2)).frames) == sample_indices(20, 4).tolist()
