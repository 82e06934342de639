"""What the decoder accepts; shared by the sandbox process and the side that starts it, so it imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")
"""Codecs that are decoded, by FFmpeg's codec name."""

DECODERS = (*CODECS, "libdav1d", "libvpx", "libvpx-vp9")
"""Names of the decoders behind :data:`CODECS`; AV1 has one of another name."""

CONTAINERS = {"mov": "mp4", "matroska": "matroska", "avi": "avi"}
"""Demuxer, as chosen from the magic bytes, and the name that users see."""


@dataclass(frozen=True)
class DecodeLimits:
    """Limits of one decoding.

    Args:
        max_bytes: size of the file.
        max_side_px, max_pixels: longer side and area of a source frame; 4096 x 2304 and the same upright.
        min_side_px: shorter side of a source frame.
        max_duration_s: the last frame may begin at most this long after the first.
        max_frames, min_frames: number of frames in the source, as decoded.
        max_streams: streams of any kind in the container.
        max_rows: height of the frames that come back; taller ones are scaled down.
        cpu_s, wall_s: time the sandbox process gets.
        address_space_bytes: RLIMIT_AS of the sandbox process. Interpreter and PyAV take about 0.15 GiB of it; 4096 x 2304 in 10-bit
            4:4:4 with 16 reference frames needs between 0.75 and 0.875 GiB in all, so 1 GiB is enough.
        max_damaged_share: share of damaged frames among the wanted ones, above which the clip is refused.
    """

    max_bytes: int = 200 * 1024 * 1024
    max_side_px: int = 4096
    max_pixels: int = 4096 * 2304
    min_side_px: int = 16
    max_duration_s: float = 60.0
    max_frames: int = 3600
    min_frames: int = 2
    max_streams: int = 8
    max_rows: int = 720
    cpu_s: float = 20.0
    wall_s: float = 30.0
    address_space_bytes: int = 1 << 30
    max_damaged_share: float = 0.1
