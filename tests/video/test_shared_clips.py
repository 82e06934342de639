"""Real clips, where they are there: all decode, and as PyAV alone decodes them."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from chronolens.video.decode import decode_clip

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "clips"
VIDEOS = (".mp4", ".mkv", ".webm", ".avi")


def clips() -> list[Path]:
    """All videos of the folder, of the thousand hockey clips only five."""
    found = sorted(path for path in SHARED.glob("*/*") if path.suffix in VIDEOS)
    hockey = [path for path in found if path.parent.name == "hockey"]
    return [path for path in found if path.parent.name != "hockey"] + hockey[:: max(1, len(hockey) // 5)][:5]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared clips")
def test_all_real_clips_decode() -> None:
    facts = {entry["file"]: entry for entry in json.loads((SHARED / "manifest.json").read_text())}
    seen = 0
    for path in clips():
        clip = decode_clip(path, 16)
        assert clip.frames.shape[0] == 16
        assert np.all(np.diff(clip.timestamps_s) >= 0)
        assert clip.frames.std() > 1
        entry = facts.get(f"{path.parent.name}/{path.name}")
        if entry:
            assert (clip.info.width, clip.info.height) == (entry["width"], entry["height"]), path.name
            assert clip.info.sha256 == entry["sha256"]
            assert clip.info.fps == pytest.approx(entry["fps"], rel=0.01), path.name
        seen += 1
    assert seen >= 5


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared clips")
@pytest.mark.parametrize("suffix", VIDEOS)
def test_sampled_frames_equal_a_plain_decode(suffix: str) -> None:
    path = next(path for path in clips() if path.suffix == suffix)
    clip = decode_clip(path, 8)
    with av.open(str(path)) as container:
        plain = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert clip.info.frames == len(plain)
    for frame, index, when in zip(clip.frames, clip.indices, clip.timestamps_s, strict=True):
        np.testing.assert_array_equal(frame, plain[index][1])
        assert when == pytest.approx(plain[index][0], abs=1e-6)
