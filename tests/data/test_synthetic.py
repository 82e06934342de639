"""The synthetic data set: same clip for the same numbers, splits that share nothing, and a true record."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from chronolens.data.synthetic import LABELS, OPPOSITES, make_clip, write_sample
from chronolens.data.synthetic_render import Renderer
from chronolens.data.synthetic_scene import ASPECT, COLLIDE, HOLD, PASS, RIGHTWARDS, SPIN, TURN_LEFT, UP
from chronolens.data.synthetic_textures import SHAPES, TEXTURES, field, outline
from chronolens.sampling import sample_indices

ALL_SPLITS = ("train", "val", "test")


def test_same_numbers_give_the_same_bytes() -> None:
    first = make_clip("train", 5, seed=3)
    again = make_clip("train", 5, seed=3)
    assert first == again
    assert np.array_equal(first.render(40, 48, 4), again.render(40, 48, 4))


@pytest.mark.parametrize(("split", "index", "seed"), [("val", 5, 3), ("train", 21, 3), ("train", 5, 4)])
def test_each_number_matters(split: str, index: int, seed: int) -> None:
    base = make_clip("train", 5, seed=3).render(32, 32, 2)
    assert not np.array_equal(base, make_clip(split, index, seed).render(32, 32, 2))


def test_splits_share_no_texture_family_and_no_shape() -> None:
    for table in (TEXTURES, SHAPES):
        names = [name for split in ALL_SPLITS for name in table[split]]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("split", ALL_SPLITS)
def test_clips_use_only_the_families_of_their_split(split: str) -> None:
    for index in range(48):
        scene = make_clip(split, index).scene
        assert scene.background.family in TEXTURES[split]
        for thing in scene.things:
            assert thing.surface.family in TEXTURES[split]
            assert thing.shape in SHAPES[split] or (thing.role == "occluder" and thing.shape == "post")


def test_every_family_has_contrast_and_every_shape_fits_its_square() -> None:
    for split in ALL_SPLITS:
        for family in TEXTURES[split]:
            assert field(family, 0).std() > 15, family
        for shape in SHAPES[split]:
            assert np.abs(outline(shape)).max() <= 1.1, shape


def test_opposites_are_involutive_and_leave_out_what_has_none() -> None:
    assert all(OPPOSITES[OPPOSITES[label]] == label and OPPOSITES[label] != label for label in OPPOSITES)
    assert set(LABELS) - set(OPPOSITES) == {COLLIDE, PASS, HOLD, SPIN}
    assert len(LABELS) == len(set(LABELS)) == 16


def test_labels_are_templates_of_something_something() -> None:
    listing = Path(__file__).resolve().parents[2] / ".." / "shared" / "labels" / "something_something_v2.txt"
    if not listing.is_file():
        pytest.skip("no list of labels beside the repository")
    assert set(LABELS) <= set(listing.read_text(encoding="utf-8").splitlines())


def test_any_run_of_sixteen_is_balanced() -> None:
    assert sorted(make_clip("test", index).target for index in range(7, 23)) == list(range(16))


@pytest.mark.parametrize("label", [label for label in LABELS if label != HOLD])
def test_pictures_change_only_inside_the_interval(label: str) -> None:
    clip = make_clip("test", 3, seed=1, label=label)
    scene = clip.scene
    times = np.arange(clip.total) / 12
    progress = scene.progress(times)
    first, last = clip.record()["motion_frames"]
    assert 0 <= first < last < clip.total
    assert (progress[: first + 1] == 0).all()
    assert (progress[last:] == 1).all()
    assert progress[(first + last) // 2] not in (0.0, 1.0)


def test_boxes_rest_outside_the_interval_and_move_inside() -> None:
    record = make_clip("test", 0, seed=2, label=RIGHTWARDS).record()
    boxes = np.array(record["boxes"])[0]
    centres = (boxes[:, 0] + boxes[:, 2]) / 2
    first, last = record["motion_frames"]
    travelled = centres[last] - centres[first]
    assert travelled > 0.3
    assert np.ptp(centres[: first + 1]) < 0.03
    assert np.ptp(centres[last:]) < 0.03


def test_boxes_lie_inside_the_frame() -> None:
    for index in range(16):
        boxes = np.array(make_clip("train", index).record()["boxes"])
        assert boxes.shape[2] == 4
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        assert (boxes[..., 2:] >= boxes[..., :2]).all()


@pytest.mark.parametrize("split", ALL_SPLITS)
def test_things_go_where_the_label_says(split: str) -> None:
    for index in range(8):
        rise = make_clip(split, index, label=UP).scene.things[0].keys
        assert rise[-1][2] < rise[0][2] - 0.25  # y points down
        turn = make_clip(split, index, label=TURN_LEFT).scene.camera
        assert turn[1][0] < turn[0][0] - 0.3
        one, two = (np.array(thing.keys) for thing in make_clip(split, index, label=PASS).scene.things[:2])
        before, after = one[0, 1:] - two[0, 1:], one[-1, 1:] - two[-1, 1:]
        assert before @ after < 0


def test_turning_left_moves_the_picture_right() -> None:
    renderer = Renderer(make_clip("test", 0, label=TURN_LEFT).scene, 96, 128)
    last = renderer.scene.frames - 1
    point = np.array([ASPECT / 2, 0.5, 1.0])
    assert (renderer._view(last) @ point)[0] > (renderer._view(0) @ point)[0] + 20


def test_moving_things_stay_in_the_frame() -> None:
    for index in range(64):
        scene = make_clip("train", index).scene
        for thing in scene.things:
            if thing.role == "moving":
                for _, x, y in thing.keys:
                    assert -0.05 < x < ASPECT + 0.05
                    assert -0.05 < y < 1.05


def test_a_model_sees_frames_of_the_whole_clip() -> None:
    clip = make_clip("val", 2)
    every = clip.render(24, 32)
    assert np.array_equal(clip.render(24, 32, 16), every[sample_indices(clip.total, 16)])


def test_the_sample_is_a_film_of_the_recorded_length(tmp_path: Path) -> None:
    record = write_sample(tmp_path / "sample.mp4", label=UP, seed=1)
    with av.open(str(tmp_path / "sample.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == record["frames"]
    drawn = make_clip("test", 0, 1, UP).render(168, 224)
    assert np.abs(shown[5].astype(int) - drawn[5]).mean() < 8


@pytest.mark.parametrize("arguments", [("none", 0, 0, None), ("test", -1, 0, None), ("test", 0, -1, None), ("test", 0, 0, "Juggling")])
def test_wrong_numbers_are_refused(arguments: tuple[str, int, int, str | None]) -> None:
    with pytest.raises(ValueError):
        make_clip(*arguments)
