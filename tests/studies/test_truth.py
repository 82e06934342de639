"""Truth tests: their figures from rows made by hand, and their rows from a tiny network on real synthetic clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chronolens.clips import ClipSpec
from chronolens.data.motion_truth import motion_truth
from chronolens.data.synthetic import LABELS, make_clip
from chronolens.engine import Engine
from chronolens.errors import OptionsError, UnknownModelError
from chronolens.explain.grad_cam import heat_maps
from chronolens.models import build_model
from chronolens.models.weights import WeightsRecord, save_weights
from chronolens.options import MaskOptions
from chronolens.studies.rows import Row, origin
from chronolens.studies.statistics import DRAWS
from chronolens.studies.truth import HEAT_MAPS, MASKS, METHODS, mask_overlap, run, scenes
from chronolens.studies.truth_table import markdown, truth_figures

CONFIG: dict[str, Any] = {"num_classes": 16, "frames": 16, "height": 32, "width": 32, "hidden": 4, "strides": (2, 1, 1)}
TWO = ("gradcam/per_frame/logit", "freeze/default")


def frames_of(first: int, stop: int, frames: int = 5) -> list[int]:
    return [int(first <= t < stop) for t in range(frames)]


def mask_row(index: int, mask: list[int], moving: list[int], method: str = "freeze/default", **more: Any) -> Row:
    made: Row = {
        "index": index, "method": method, "label": "?", "what": "object", "moving": moving,
        "values": [0.93 if on else 0.07 for on in mask], "objective": {"total": 0.5, "l1": 0.1, "tv": 0.1, "score": 0.3},
        "steps": 20, "converged": True, "passes": 60, "seconds": 1.0,
    }  # fmt: skip
    return made | more


def heat_row(index: int, method: str = "gradcam/per_frame/logit", what: str = "object", *, right: bool = True, **more: Any) -> Row:
    pointing = {"frames": 4, "hits": 3, "centre_hits": 1, "energy": 0.6, "area": 0.2}
    made: Row = {
        "index": index, "method": method, "label": "?", "what": what, "moving": [0, 1, 1, 1, 1],
        "score": 0.9, "right": right, "pointing": pointing, "heat_while_moving": 0.7,
    }  # fmt: skip
    return made | more


def test_perfect_masks_are_no_chance() -> None:
    intervals = [(1 + k % 4, 3 + k % 4 + k % 3) for k in range(12)]
    rows = [mask_row(k, frames_of(*at, 9), frames_of(*at, 9)) for k, at in enumerate(intervals)]
    found = truth_figures(rows)["masks"]["freeze/default"]
    assert found["overlap"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 12}
    assert found["chance_window"]["p"] == found["chance_scattered"]["p"] == 1 / (1 + DRAWS)
    assert found["chance_other_clips"]["p"] == 1 / (1 + DRAWS)
    assert 0.1 < found["chance_scattered"]["mean"] < found["chance_window"]["mean"] < 0.7
    assert found["length"] == found["right_length"] == pytest.approx(3.0)


def test_the_figures_of_one_mask_by_hand() -> None:
    found = truth_figures([mask_row(0, frames_of(2, 4), frames_of(1, 3), passes=41)])
    assert (found["clips"], found["right"], found["heat_maps"]) == (1, None, {})
    mask = found["masks"]["freeze/default"]
    assert mask["overlap"]["mean"] == pytest.approx(1 / 3)
    # the windows {1, 2}, {2, 3} and {3, 4} reach 1, 1/3 and 0
    assert mask["chance_window"]["mean"] == pytest.approx(4 / 9)
    assert mask["chance_window"]["p"] == pytest.approx(2 / 3, abs=0.03)
    # two of frames 1 to 4: of six pairs one is {1, 2}, four share one frame with it, one none
    assert mask["chance_scattered"]["mean"] == pytest.approx((1 + 4 / 3) / 6, abs=0.1)
    assert mask["chance_scattered"]["p"] == pytest.approx(5 / 6, abs=0.1)
    assert mask["all_frames"] == 0.5
    assert mask["best_constant"] == {"window": [1, 3], "mean": 1.0}
    assert mask["chance_other_clips"] == {"mean": pytest.approx(1 / 3), "p": 1.0}  # with one clip there is one mask to deal
    assert (mask["length"], mask["right_length"], mask["empty"], mask["converged"], mask["passes"]) == (2, 2, 0, 1, 41)
    assert mask["objective"]["mean"] == 0.5
    assert mask["against_exhaustive"]["n"] == mask["overlap_right"]["n"] == 0


def test_masks_are_held_against_the_best_window_of_their_own_operator() -> None:
    moving = frames_of(1, 3)
    rows = [mask_row(k, frames_of(1 + k, 3 + k), moving) for k in range(3)]  # overlaps 1, 1/3 and 0
    rows += [mask_row(k, moving, moving, "freeze/exhaustive") for k in (0, 1)]
    rows += [mask_row(k, frames_of(4, 5), moving, "reverse/exhaustive") for k in range(3)]
    found = truth_figures(rows)["masks"]
    assert found["freeze/default"]["against_exhaustive"]["mean"] == pytest.approx((0 - 2 / 3) / 2)
    assert found["freeze/default"]["against_exhaustive"]["n"] == 2
    assert found["reverse/exhaustive"]["against_exhaustive"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 3}


def test_clips_that_are_classified_rightly_are_told_apart() -> None:
    rows = [mask_row(k, frames_of(1 + k, 3 + k), frames_of(1, 3)) for k in range(3)]
    rows += [heat_row(0, right=True), heat_row(1, right=True), heat_row(2, right=False)]
    found = truth_figures(rows)
    assert found["right"] == 2
    assert found["masks"]["freeze/default"]["overlap"]["mean"] == pytest.approx(4 / 9)
    assert found["masks"]["freeze/default"]["overlap_right"]["mean"] == pytest.approx(2 / 3)


def test_every_clip_keeps_its_own_figure() -> None:
    outside = {"frames": 0, "hits": 0, "centre_hits": 0, "energy": None, "area": None}
    rows = [mask_row(3, frames_of(2, 4), frames_of(1, 3)), mask_row(12, frames_of(1, 3), frames_of(1, 3))]
    rows += [heat_row(3), heat_row(12, pointing=outside)]
    assert truth_figures(rows)["per_clip"] == {
        "freeze/default": {"3": 0.3333, "12": 1.0},
        "gradcam/per_frame/logit": {"3": 0.75, "12": None},
    }


def test_empty_and_unfinished_masks_are_counted() -> None:
    nothing = {"total": None, "l1": None, "tv": None, "score": None}
    rows = [
        mask_row(0, [0] * 5, frames_of(1, 3)),
        mask_row(1, frames_of(1, 3), frames_of(1, 3), converged=False, objective=nothing),
    ]
    found = truth_figures(rows)["masks"]["freeze/default"]
    assert (found["empty"], found["converged"], found["objective"]["n"], found["length"]) == (1, 0.5, 1, 1)
    assert found["overlap"]["mean"] == 0.5
    assert found["chance_window"]["mean"] == pytest.approx((0 + 4 / 9) / 2)  # an empty mask has the overlap 0 wherever it lies
    assert found["chance_window"]["p"] == pytest.approx(1 / 3, abs=0.03)  # the other one reaches 1 with one of its three windows


def test_values_of_one_half_are_off() -> None:
    assert mask_overlap({"method": "freeze/default", "values": [0.0, 0.5, 0.51], "moving": [0, 1, 1]}) == 0.5


def test_a_reverse_mask_should_hold_both_ends_of_every_step() -> None:
    row = mask_row(0, frames_of(1, 4), frames_of(2, 4), "reverse/default")  # the steps 1-2 and 2-3 run backwards when 1, 2, 3 are reversed
    assert mask_overlap(row) == 1.0
    mask = truth_figures([row])["masks"]["reverse/default"]
    assert mask["all_frames"] == 3 / 5  # frame 0 matters to reversing
    assert mask["chance_window"]["mean"] == pytest.approx((2 / 4 + 1 + 2 / 4) / 3)


def test_masks_that_only_know_where_motion_usually_is_are_found_out() -> None:
    middle = frames_of(3, 6, 9)
    intervals = [(2 + k % 3, 5 + k % 3) for k in range(30)]
    same = truth_figures([mask_row(k, middle, frames_of(*at, 9)) for k, at in enumerate(intervals)])["masks"]["freeze/default"]
    assert same["chance_window"]["p"] < 0.01  # windows anywhere are easily beaten
    assert same["chance_other_clips"]["p"] == 1.0  # but any clip's mask does as well
    assert same["best_constant"] == {"window": [3, 6], "mean": pytest.approx(same["overlap"]["mean"])}


def test_the_figures_of_heat_maps_by_hand() -> None:
    other = {"frames": 2, "hits": 0, "centre_hits": 2, "energy": 0.2, "area": 0.4}
    outside = {"frames": 0, "hits": 0, "centre_hits": 0, "energy": None, "area": None}
    rows = [
        heat_row(0),
        heat_row(1, pointing=other, heat_while_moving=None, moving=[0, 0, 0, 1, 1], right=False),
        heat_row(2, pointing=outside, heat_while_moving=0.1, moving=[0, 0, 0, 0, 1]),
        heat_row(3, what="camera", pointing=other),
    ]
    found = truth_figures(rows)
    assert (found["clips"], found["right"]) == (4, 3)
    kinds = found["heat_maps"]["gradcam/per_frame/logit"]
    objects = kinds["object"]
    assert (objects["clips"], objects["frames"]) == (2, 6)  # the third clip never shows its object
    assert objects["hits_of_frames"] == 0.5
    assert objects["pointing"]["mean"] == pytest.approx((0.75 + 0) / 2)
    assert objects["centre"] == pytest.approx((0.25 + 1) / 2)
    assert objects["energy"]["mean"] == pytest.approx(0.4)
    assert objects["area"] == pytest.approx(0.3)
    assert objects["heat_while_moving"]["mean"] == pytest.approx((0.7 + 0.1) / 2)
    assert objects["share_of_frames_moving"] == pytest.approx((0.8 + 0.4 + 0.2) / 3)
    assert (kinds["camera"]["clips"], kinds["camera"]["hits_of_frames"]) == (1, 0)


def test_the_tables_name_every_method() -> None:
    rows = [
        mask_row(k, frames_of(1 if method.startswith("freeze") else 0, 3), frames_of(1, 3), method) for method in MASKS for k in range(8)
    ]
    rows += [heat_row(k, method, what) for method in HEAT_MAPS for k, what in enumerate(("object", "camera"))]
    lines = markdown(truth_figures(rows)).splitlines()
    for method in MASKS:
        (line,) = (line for line in lines if line.startswith(f"| {method} |"))
        assert "| 8 | 1.00 [1.00, 1.00] |" in line
        assert "(p < 0.001) | 1.00 (p = 1.000) |" in line
        length = "2.0 of 2.0" if method.startswith("freeze") else "3.0 of 3.0"
        assert f"| +0.00 [+0.00, +0.00] | {length} | 0 | 1.00 |" in line
    for method in HEAT_MAPS:
        for what in ("object", "camera"):
            (line,) = (line for line in lines if line.startswith(f"| {method.removeprefix('gradcam/')} | {what} |"))
            assert "| 1 | 0.75 [0.75, 0.75] | 0.25 | 0.60 [0.60, 0.60] | 0.20 | 0.70 [0.70, 0.70] of 0.80 |" in line
    assert [line.count("|") for line in lines if line.startswith("|---")] == [11, 9]


def test_no_rows_make_empty_tables() -> None:
    found = truth_figures([])
    assert found == {"clips": 0, "right": None, "heat_maps": {}, "masks": {}, "per_clip": {}}
    assert len([line for line in markdown(found).splitlines() if line]) == 4


def write_store(store: Path, seed: int, name: str = "small") -> WeightsRecord:
    """Write a random C-LSTM for the synthetic classes with a classifier wide enough for scores that masks can move."""
    torch.manual_seed(seed)
    model = build_model("clstm", **CONFIG)
    with torch.no_grad():
        model.endFC.weight.mul_(20)
    spec = ClipSpec(16, 32, 32, scale=2 / 255, mean=(1.0, 1.0, 1.0))
    return save_weights(model, WeightsRecord(name, "clstm", CONFIG, spec, LABELS, "synthetic", "Apache-2.0", "random numbers"), store)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    torch.set_num_threads(1)
    monkeypatch.setenv("CHRONOLENS_PRECISION", "float32")
    write_store(tmp_path / "store", seed=0)
    return Engine(tmp_path / "store", device="cpu")


def test_clips_in_which_nothing_moves_are_left_out() -> None:
    found = list(scenes(15, 0, 8))
    assert [clip.index for clip, _ in found] == [*range(14), 15]  # clip 14 shows something held
    assert all(truth.moving.shape == (8,) for _, truth in found)


def test_a_row_says_what_the_engine_says(engine: Engine) -> None:
    steps: list[tuple[int, int]] = []
    rows = run(engine, "small", methods=TWO, limit=2, report=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [(row["index"], row["method"]) for row in rows] == [(k, method) for k in (0, 1) for method in TWO]
    for row in rows:
        clip = make_clip("test", row["index"])
        truth = motion_truth(clip, 16)
        assert (row["label"], row["what"], row["moving"]) == (clip.label, "object", truth.moving.astype(int).tolist())
    network = engine.load("small").network
    for heat, mask in (rows[:2], rows[2:]):
        clip = make_clip("test", heat["index"])
        frames = clip.render(32, 32, 16)
        prepared = torch.from_numpy(frames.astype(np.float32) * (2 / 255) - 1).permute(3, 0, 1, 2)[None]
        scores = network(prepared)[0].double().softmax(0)
        assert heat["score"] == pytest.approx(float(scores[clip.target]), abs=1e-6)
        assert heat["right"] == (int(scores.argmax()) == clip.target)
        found = heat_maps(network, prepared, clip.target).maps["clstm.cell2"][0].double()
        moving = torch.tensor(heat["moving"], dtype=torch.bool)
        # one step a frame; spreading a map over the frame by interpolation changes its mass a little
        assert heat["heat_while_moving"] == pytest.approx(float(found[moving].sum() / found.sum()), abs=0.05)
        assert heat["pointing"]["frames"] == int(moving.sum())
        assert 0 < heat["pointing"]["energy"] < 1
        assert len(mask["values"]) == 16
        soft = engine.score("small", frames, clip.target, {"freeze": mask["values"]}, MaskOptions())["soft"]["freeze"]
        assert mask["objective"]["score"] == pytest.approx(soft, abs=1e-3)  # values are rounded to four digits
        assert mask["objective"]["total"] < scores[clip.target] + 1e-3  # the empty mask competes
        assert mask["passes"] > 20


def test_a_method_may_have_a_number_of_clips_of_its_own(engine: Engine) -> None:
    rows = run(engine, "small", methods=("gradcam/per_frame/logit", "gradcam/per_clip/logit:1"), limit=2)
    assert [(row["index"], row["method"]) for row in rows] == [
        (0, "gradcam/per_frame/logit"), (0, "gradcam/per_clip/logit"), (1, "gradcam/per_frame/logit"),
    ]  # fmt: skip
    for wrong in ("freeze/default:0", "freeze/default:x", "freeze/default:-1", ""):
        with pytest.raises(OptionsError) as caught:
            run(engine, "small", methods=(wrong,), limit=2)
        assert caught.value.pointer == "/methods"


def test_what_is_in_the_file_is_not_computed_again(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = run(engine, "small", methods=TWO, limit=2, rows=file)
    text = file.read_text(encoding="utf-8")
    head, *lines = text.splitlines()
    assert json.loads(head) == {**origin(engine, "small"), "seed": 0}
    assert origin(engine, "small")["weights"] == engine.load("small").record.sha256
    assert [json.loads(line) for line in lines] == rows
    assert run(engine, "small", methods=TWO, limit=2, rows=file) == rows  # the seconds that a mask took would differ
    assert file.read_text(encoding="utf-8") == text
    # what the file says is believed, and a run that was cut short computes only what is missing
    changed = [json.dumps({**json.loads(lines[0]), "score": 2.0}), *lines[1:3]]
    file.write_text("\n".join([head, *changed]) + "\n", encoding="utf-8")
    again = run(engine, "small", methods=TWO, limit=2, rows=file)
    assert again[0] == {**rows[0], "score": 2.0}
    assert again[1:3] == rows[1:3]
    assert {**again[3], "seconds": 0} == {**rows[3], "seconds": 0}
    assert len(file.read_text(encoding="utf-8").splitlines()) == 5
    more = run(engine, "small", methods=TWO[:1], limit=3, rows=file)
    assert [row["index"] for row in more] == [0, 1, 2]
    assert more[0]["score"] == 2.0
    assert len(file.read_text(encoding="utf-8").splitlines()) == 6


def test_the_paper_s_mask_is_that_of_its_start(engine: Engine) -> None:
    (row,) = run(engine, "small", methods=["freeze/paper"], limit=1)
    assert row["steps"] == 1
    on = [value > 0.5 for value in row["values"]]
    assert on == on[::-1]  # a central window
    assert any(on)


def test_rows_of_another_seed_precision_or_weights_are_refused(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    run(engine, "small", methods=TWO[:1], limit=1, rows=file)
    before = file.read_bytes()
    monkeypatch.setenv("CHRONOLENS_PRECISION", "bfloat16")
    other_precision = Engine(engine.store, device="cpu")
    monkeypatch.setenv("CHRONOLENS_PRECISION", "float32")
    write_store(engine.store, seed=1)
    other_weights = Engine(engine.store, device="cpu")
    engine_and_seed = [(engine, 1), (other_precision, 0), (other_weights, 0)]
    for asked, seed in engine_and_seed:
        with pytest.raises(OptionsError, match="another file") as caught:
            run(asked, "small", methods=TWO[:1], limit=1, seed=seed, rows=file)
        assert caught.value.pointer == "/rows"
    assert file.read_bytes() == before


def test_wrong_methods_and_models_are_refused(engine: Engine, tiny_store: Path) -> None:
    with pytest.raises(OptionsError, match="gradcam/per_layer/logit") as caught:
        run(engine, "small", methods=["gradcam/per_layer/logit"], limit=1)
    assert (caught.value.pointer, caught.value.allowed) == ("/methods", list(METHODS))
    with pytest.raises(OptionsError, match="synthetic classes") as caught:
        run(Engine(tiny_store, device="cpu"), "tiny-clstm", methods=TWO, limit=1)
    assert caught.value.pointer == "/model"
    with pytest.raises(UnknownModelError):
        run(engine, "large", methods=TWO, limit=1)
