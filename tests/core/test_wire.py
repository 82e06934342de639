"""Bodies between processes: what goes in comes out, and damage is refused."""

import dataclasses
import json

import numpy as np
import pytest

from chronolens.clips import ClipInfo, ClipSpec, DecodedClip
from chronolens.errors import OptionsError
from chronolens.schemas import ClipSpecInfo
from chronolens.wire import pack, pack_clip, unpack, unpack_clip


def test_arrays_and_facts_survive():
    arrays = {"frames": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "scores": np.array([0.1, 1e-300])}
    facts = {"text": "ümlaut \x00", "number": 0.1, "none": None, "list": [1, [2]]}
    found, found_facts = unpack(pack(arrays, facts))
    assert found_facts == facts
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_no_arrays_and_views_are_fine():
    assert unpack(pack({}, {"a": 1})) == ({}, {"a": 1})
    flipped = np.arange(6).reshape(2, 3)[:, ::-1]
    np.testing.assert_array_equal(unpack(pack({"x": flipped}, {}))[0]["x"], [[2, 1, 0], [5, 4, 3]])


@pytest.mark.parametrize("body", [b"", b"x" * 50, pack({"a": np.zeros(3)}, {})[:-1], (2**60).to_bytes(8, "little") + b"{}"])
def test_damaged_bodies_are_refused(body):
    with pytest.raises(OptionsError) as caught:
        unpack(body)
    assert caught.value.code == "malformed-body"


def test_the_preparation_of_a_model_survives():
    spec = ClipSpec(8, 24, 32, "mmaction2", 1 / 255, (0.1, 0.2, 0.3), (1, 2, 3), 2, "crop", 40, "pil", "bgr")
    sent = json.loads(json.dumps(dataclasses.asdict(spec)))
    assert ClipSpec(**ClipSpecInfo(**sent).model_dump()) == spec
    # a job that was stored before there were other ways
    old = {"frames": 8, "height": 24, "width": 32, "sampling": "centre", "scale": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}
    assert ClipSpec(**ClipSpecInfo(**old).model_dump()) == ClipSpec(8, 24, 32)


def test_a_clip_survives():
    info = ClipInfo("ab" * 32, "mp4", "h264", 4, 2, 12.5, 30, 2.4)
    clip = DecodedClip(np.full((3, 2, 4, 3), 7, np.uint8), np.array([0, 1, 1]), np.array([0.0, 0.08, 0.08]), info, ["short"])
    found = unpack_clip(pack_clip(clip))
    np.testing.assert_array_equal(found.frames, clip.frames)
    np.testing.assert_array_equal(found.timestamps_s, clip.timestamps_s)
    assert (found.info, found.warnings) == (info, ["short"])
    with pytest.raises(OptionsError):
        unpack_clip(pack({}, {}))
