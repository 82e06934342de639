"""Every kind of bad file gets its own answer, and the next good clip decodes as before."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from tests.video.conftest import Make, grow_box, numbered, remux, write_clip

from chronolens.errors import ClipError, ClipTooLargeError, UnsupportedClipError, UnusableClipError
from chronolens.video.decode import DecodeLimits, decode_clip

DREF = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")


def refusal(path: Path, limits: DecodeLimits | None = None) -> ClipError:
    with pytest.raises(ClipError) as caught:
        decode_clip(path, 8, limits=limits or DecodeLimits())
    assert str(path.parent) not in str(caught.value)
    assert path.name not in str(caught.value)
    return caught.value


def picture(kind: str) -> bytes:
    return bytes(cv2.imencode(kind, np.zeros((32, 32, 3), dtype=np.uint8))[1])


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("clip.mp4", "hello")
    return out.getvalue()


NO_VIDEO = {
    "random": np.random.default_rng(0).bytes(5000),
    "text": b"hello, this is no video\n" * 50,
    "html": b"<!DOCTYPE html><html><video src=x></html>",
    "zip": archive(),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(200),
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "png": picture(".png"),
    "jpeg": picture(".jpg"),
    "webp": picture(".webp"),
    "gif": b"GIF89a" + bytes(60),
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200),
    "nut": b"nut/multimedia container\0" + bytes(100),
    "ffmeta": b";FFMETADATA1\ntitle=x\n",
    "mpegts": (b"\x47\x40\x11\x10" + bytes(184)) * 20,
    "one byte": b"\0",
}
PLAYLISTS = {
    "m3u8": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    "bom and blanks": b"\xef\xbb\xbf \n#EXTM3U\nfile:///etc/hostname\n",
    "ffconcat": b"ffconcat version 1.0\nfile 'good.mp4'\n",
    "dash": b"<?xml version='1.0'?>\n<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>good.mp4</BaseURL></MPD>",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "asx": b"<asx version='3.0'><entry><ref href='file:///etc/hostname'/></entry></asx>",
    "smil": b"<?xml version='1.0'?><smil><body><video src='good.mp4'/></body></smil>",
}


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.touch()
    error = refusal(path)
    assert (type(error), error.code) == (UnusableClipError, "empty-file")


@pytest.mark.parametrize("kind", NO_VIDEO)
def test_no_video_at_all(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(NO_VIDEO[kind])
    error = refusal(path)
    assert (type(error), error.code) == (UnsupportedClipError, "unrecognised")


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_never_open_what_they_name(tmp_path: Path, make: Make, kind: str) -> None:
    make("good.mp4", 8)
    path = tmp_path / "clip.mp4"
    path.write_bytes(PLAYLISTS[kind])
    error = refusal(path)
    assert (type(error), error.code) == (UnsupportedClipError, "playlist")


def test_too_many_bytes(make: Make) -> None:
    path = make("a.mp4", 8)
    error = refusal(path, DecodeLimits(max_bytes=100))
    assert (type(error), error.code, error.limit, error.observed) == (ClipTooLargeError, "too-large", 100, path.stat().st_size)


def test_folders_are_no_clips(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        decode_clip(tmp_path, 8)


UNSUPPORTED = [
    ("a.mov", "prores_ks", "yuv422p10le"),
    ("a.mkv", "ffv1", "yuv420p"),
    ("a.avi", "rawvideo", "bgr24"),
    ("b.mov", "png", "rgb24"),
    ("c.avi", "huffyuv", "yuv422p"),
    ("d.mov", "jpeg2000", "yuv420p"),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), UNSUPPORTED)
def test_codecs_off_the_list(make: Make, name: str, codec: str, pix_fmt: str) -> None:
    error = refusal(make(name, 8, 64, 64, codec=codec, pix_fmt=pix_fmt))
    assert (type(error), error.code) == (UnsupportedClipError, "unsupported-codec")
    assert "h264" in error.allowed


def test_cut_off_before_the_index(make: Make) -> None:
    path = make("a.mp4", 30)
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"moov") - 10])
    assert refusal(path).code == "undecodable"


def test_cut_off_behind_the_index(noisy: Path, tmp_path: Path) -> None:
    data = noisy.read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: len(data) // 2])
    assert refusal(path).code == "undecodable"
    path.write_bytes(data[: int(len(data) * 0.97)])
    clip = decode_clip(path, 8)
    assert clip.info.frames < 60
    assert "frames are missing" in clip.warnings[0]


def test_damage_in_many_frames_is_refused(noisy: Path) -> None:
    data, random = bytearray(noisy.read_bytes()), np.random.default_rng(0)
    for place in random.integers(8000, len(data), 400):
        data[place] ^= 0xFF
    noisy.write_bytes(data)
    assert refusal(noisy).code == "undecodable"


def test_damage_in_few_frames_is_told(noisy: Path) -> None:
    with av.open(str(noisy)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][58]
        assert last.pos is not None
        start = last.pos + 100
    data = bytearray(noisy.read_bytes())
    for place in range(start, start + 200):
        data[place] ^= 0xA5
    noisy.write_bytes(data)
    clip = decode_clip(noisy, 30)
    assert "damaged" in clip.warnings[0]


def test_missing_first_key_frame(make: Make, tmp_path: Path) -> None:
    whole = make("a.mp4", 20, gop_size=10, options={"bf": "0"})
    assert refusal(remux(whole, tmp_path / "b.mkv", skip=1)).code == "undecodable"


def test_box_bombs_end_at_once(tmp_path: Path) -> None:
    start, count = b"\0\0\0\x10ftypisom\0\0\0\0", 200_000
    flat = start + b"\0\0\0\x08free" * count
    nested = start + b"".join((8 * (count - k)).to_bytes(4, "big") + b"moov" for k in range(count))
    endless = start + b"\0\0\0\0moov" * 50
    zero_wide = start + b"\0\0\0\x01moov" + bytes(8)
    for data in (flat, nested, endless, zero_wide):
        path = tmp_path / "clip.mp4"
        path.write_bytes(data)
        begun = time.perf_counter()
        assert refusal(path).code == "undecodable"
        assert time.perf_counter() - begun < 3  # one second where nothing else runs


def test_fragments_without_their_beginning(make: Make) -> None:
    path = make("a.mp4", 8)
    path.write_bytes(b"\0\0\0\x10moof\0\0\0\x08mfhd" + path.read_bytes()[:200])
    assert refusal(path).code == "undecodable"


def test_external_reference(make: Make) -> None:
    path = make("a.mp4", 8, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    flags = data.find(b"url ") + 7
    data[flags] = 0
    grow_box(data, (*DREF, b"url "), b"file:///etc/hostname\0")
    path.write_bytes(data)
    error = refusal(path)
    assert (type(error), error.code) == (UnusableClipError, "external-reference")


def test_encrypted(make: Make) -> None:
    path = make("a.mp4", 8)
    data = bytearray(path.read_bytes())
    place = data.rfind(b"avc1")
    data[place : place + 4] = b"encv"
    path.write_bytes(data)
    assert refusal(path).code == "encrypted"


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    error = refusal(path)
    assert (type(error), error.code) == (UnusableClipError, "no-video-stream")


def test_too_many_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in range(9)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for stream in streams:
            for number, array in enumerate(numbered(2)):
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    error = refusal(path)
    assert (error.code, error.limit, error.observed) == ("too-many-streams", 8, 9)


def test_edit_list_that_skips_everything(make: Make) -> None:
    path = make("a.mp4", 8, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    entry = data.find(b"elst") + 12
    data[entry + 4 : entry + 8] = (1 << 30).to_bytes(4, "big")
    path.write_bytes(data)
    assert refusal(path).code in ("no-frames", "undecodable")


@pytest.mark.parametrize(("height", "width"), [(8, 64), (64, 8), (2, 2)])
def test_too_small(make: Make, height: int, width: int) -> None:
    error = refusal(make("a.mp4", 4, height, width))
    assert (error.code, error.limit, error.observed) == ("too-small", 16, min(height, width))


def test_too_many_pixels(make: Make) -> None:
    assert refusal(make("a.mkv", 2, 64, 4112, codec="mpeg4")).code == "too-many-pixels"
    assert refusal(make("b.mp4", 2), DecodeLimits(max_pixels=64 * 47)).code == "too-many-pixels"


def test_header_that_claims_65535_pixels(make: Make) -> None:
    path = make("a.mp4", 8)
    data = bytearray(path.read_bytes())
    place = data.rfind(b"avc1") + 28
    data[place : place + 4] = b"\xff" * 4
    path.write_bytes(data)
    assert refusal(path).code == "too-many-pixels"


def test_too_short(make: Make) -> None:
    error = refusal(make("a.mp4", 1))
    assert (error.code, error.limit, error.observed) == ("too-short", 2, 1)


def test_too_long(make: Make) -> None:
    error = refusal(make("a.mp4", 36, times_ms=[2000 * k for k in range(36)]))
    assert (error.code, error.limit, error.observed) == ("too-long", 60, 70)
    assert decode_clip(make("b.mp4", 31, times_ms=[2000 * k for k in range(31)]), 4).info.frames == 31


def test_too_many_frames(tmp_path: Path) -> None:
    frames = np.zeros((4000, 16, 16, 3), dtype=np.uint8)
    path = write_clip(tmp_path / "a.mp4", frames, rate=100, options={"preset": "ultrafast"})
    error = refusal(path)
    assert (error.code, error.limit) == ("too-many-frames", 3600)


def test_size_changes_in_mid_stream(tmp_path: Path) -> None:
    """Motion JPEG: every frame is a picture of its own, so any size can follow any other."""
    path, parts = tmp_path / "a.mkv", [(48, 64), (64, 96)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = *parts[0], "yuvj420p"
        other = av.CodecContext.create("mjpeg", "w")
        other.height, other.width, other.pix_fmt, other.time_base = *parts[1], "yuvj420p", Fraction(1, 10)
        for number in range(20):
            encoder, size = (stream, parts[0]) if number < 10 else (other, parts[1])
            frame = av.VideoFrame.from_ndarray(numbered(1, *size)[0], format="rgb24")
            frame.pts = number
            for packet in encoder.encode(frame):
                packet.stream = stream
                packet.pts = packet.dts = number * 100
                packet.time_base = stream.time_base or packet.time_base
                container.mux(packet)
    error = refusal(path)
    assert (type(error), error.code) == (UnusableClipError, "resolution-changed")


def test_declared_length_is_not_believed(make: Make) -> None:
    path = make("a.mp4", 20, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        place = data.find(box) + offset
        data[place : place + 4] = b"\xff\xff\xff\xfe"
    path.write_bytes(data)
    clip = decode_clip(path, 4)
    assert (clip.info.frames, clip.info.duration_s) == (20, 2.0)


@pytest.mark.parametrize("claimed_ms", [2.0**42, -5.0, float("nan")])
def test_declared_length_in_matroska(make: Make, claimed_ms: float) -> None:
    path = make("a.mkv", 20)
    data = bytearray(path.read_bytes())
    place = data.find(b"\x44\x89\x88") + 3
    data[place : place + 8] = struct.pack(">d", claimed_ms)
    path.write_bytes(data)
    clip = decode_clip(path, 4)
    assert (clip.info.frames, clip.info.duration_s) == (20, 2.0)
    assert clip.warnings == (["The video ends earlier than its header says."] if claimed_ms > 2000 else [])


def test_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1, 64, 64)[0], format="rgb24")))
        container.mux(cover.encode(None))
    assert refusal(path).code == "no-video-stream"


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_cut_off_where_the_index_comes_last(make: Make, name: str, codec: str) -> None:
    """What is there is used, and the user is told."""
    path = make(name, 40, 144, 176, codec=codec, options={"g": "5", "bf": "0"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    clip = decode_clip(path, 4)
    assert 5 <= clip.info.frames < 20
    assert "The video ends earlier than its header says." in clip.warnings
