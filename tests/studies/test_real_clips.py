"""Studies of real files: the paper's tables, boxes that people drew, published masks. Tiny networks, real decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from chronolens.cli import app
from chronolens.clips import ClipSpec, DecodedClip
from chronolens.engine import Engine
from chronolens.errors import OptionsError
from chronolens.studies.annotated import _placed, pointing_rows, read_boxes
from chronolens.studies.dataset import data_set_figures, explain_split, markdown
from chronolens.studies.published import compare, read_reference, runs
from chronolens.video.encode import write_h264

MODEL = "tiny-clstm"


def movie(path: Path, shift: int) -> Path:
    """Ten frames of 64 x 48 with a bright square that moves to the right."""
    frames = np.full((10, 48, 64, 3), 60, np.uint8)
    for number in range(10):
        left = shift + 4 * number
        frames[number, 10:22, left : left + 12] = (240, 220, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_h264(path, frames, np.arange(10) / 10)
    return path


@pytest.fixture
def engine(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("CHRONOLENS_PRECISION", "float32")
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(tiny_store))
    return Engine(tiny_store, device="cpu")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A CSV with three clips of two classes, all in the test split."""
    lines = ["file,label,split"]
    for number, label in enumerate(("opening", "opening", "closing")):
        movie(tmp_path / f"{number}.mp4", 2 * number)
        lines.append(f"{number}.mp4,{label},test")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "list.csv"


def test_a_split_is_explained_once_and_tabulated(engine: Engine, listed: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    rows = explain_split(engine, MODEL, listed, tmp_path / "out", panels=1, report=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [row["file"] for row in rows] == ["0.mp4", "1.mp4", "2.mp4"]
    assert [path.name for path in (tmp_path / "out" / "panels").iterdir()] == ["000-0.mp4"]
    for row in rows:
        assert row["freeze_length"] == sum(row["freeze_active"])
        assert 0 <= row["score"] <= 1
    before = (tmp_path / "out" / "rows.jsonl").read_text()
    assert explain_split(engine, MODEL, listed, tmp_path / "out") == rows
    assert (tmp_path / "out" / "rows.jsonl").read_text() == before
    figures = data_set_figures(rows)
    assert [figures[name]["clips"] for name in ("all", "opening", "closing")] == [3, 2, 1]
    assert figures["all"]["freeze_length"]["mean"] == pytest.approx(np.mean([row["freeze_length"] for row in rows]))
    assert figures["closing"]["freeze_length"]["sd"] is None
    assert "| clips | 3 | 1 | 2 |" in markdown(figures)  # labels in alphabetical order


def test_a_ratio_that_is_left_out_does_not_count() -> None:
    base = {
        "label": "a", "known": True, "predicted": "a", "score": 0.9, "freeze_score": 0.1, "reverse_score": 0.5, "fully_frozen_score": 0.0,
        "fully_reversed_score": 0.4, "drop_difference": 0.4, "freeze_runs": 1, "reverse_length": 2, "blob_count": 1.0, "blob_size": None,
        "blob_distance": None, "freeze_converged": True, "passes": 10,
    }  # fmt: skip
    rows = [
        {**base, "drop_ratio": 2.0, "freeze_length": 4, "freeze_p": 0.05, "freeze_windows": 19},
        {
            **base,
            "drop_ratio": None,
            "freeze_length": 0,
            "freeze_p": None,
            "freeze_windows": 0,
            "predicted": "b",
            "freeze_converged": False,
        },
        {**base, "drop_ratio": 4.0, "freeze_length": 8, "freeze_p": 0.5, "freeze_windows": 9},
        {**base, "drop_ratio": 3.0, "freeze_length": 4, "freeze_p": 0.2, "freeze_windows": 4},  # p could not have been below 0.2
        {"file": "broken", "label": "a", "known": True, "error": "undecodable"},
    ]
    found = data_set_figures(rows)["all"]
    assert (found["drop_ratio"]["mean"], found["drop_ratio"]["n"]) == (3.0, 3)
    assert found["drop_ratio"]["sd"] == pytest.approx(1.0)
    assert (found["clips"], data_set_figures(rows)["unusable"]) == (4, 1)
    assert "1 clips could not be used" in markdown(data_set_figures(rows))
    assert (found["freeze_length"]["mean"], found["freeze_length"]["median"], found["empty"]) == (4.0, 4.0, 1)
    assert (found["better_than_chance"], found["judged"]) == (0.5, 2)
    assert found["accuracy"] == found["converged"] == pytest.approx(3 / 4)
    assert found["blob_size"]["mean"] is None
    assert "| blob size | - | - |" in markdown(data_set_figures(rows))


def annotation(name: str, frame: int, *boxes: tuple[str, tuple[float, float, float, float]]) -> dict[str, Any]:
    labels = [{"standard_category": what, "box2d": dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))} for what, corners in boxes]
    return {"name": f"{name}/{frame:04d}.jpg", "labels": labels}


def test_boxes_that_people_drew_are_placed_on_the_sampled_frames(engine: Engine, tmp_path: Path) -> None:
    movie(tmp_path / "ssv2_77_moving.mp4", 0)
    movie(tmp_path / "ssv2_78_other.mp4", 0)
    # of the ten frames the model sees 0 1 3 4 5 6 8 9; annotations count from 1
    frames = [annotation("77", number, ("hand", (0, 0, 64, 48)), ("0001", (0, 0, 0.1, 0.1))) for number in (1, 3, 5)]
    (tmp_path / "boxes.json").write_text(json.dumps({"77": frames, "99": []}))
    (row,) = pointing_rows(engine, MODEL, tmp_path, tmp_path / "boxes.json")
    assert row["file"] == "ssv2_77_moving.mp4"
    assert (row["hand"]["frames"], row["hand"]["hits"]) == (2, 2)  # frames 0 and 4; frame 2 is not sampled; the box is the whole frame
    assert row["hand"]["energy"] == pytest.approx(1.0)
    assert row["object"]["frames"] == 0  # smaller than a pixel
    assert row["any"]["area"] == pytest.approx(1.0)
    with pytest.raises(OptionsError, match="no clip of the folder"):
        pointing_rows(engine, MODEL, tmp_path / "..", tmp_path / "boxes.json")


def test_boxes_are_placed_on_the_part_that_the_model_sees(clip: DecodedClip) -> None:
    spec = ClipSpec(8, 36, 36, resize="crop", short_side=48)  # of 64 x 48 pixels the columns 14 to 50 and the rows 6 to 42
    frames = {1: [("hand", np.array([14.0, 6.0, 32.0, 42.0]))], 3: [("hand", np.array([0.0, 0.0, 64.0, 48.0]))]}
    placed = _placed(clip, spec, frames, "hand")
    assert placed[0].tolist() == [[0.0, 0.0, 0.5, 1.0]]
    np.testing.assert_allclose(placed[1], [[-14 / 36, -6 / 36, 50 / 36, 42 / 36]])
    assert [len(boxes) for boxes in placed[2:]] == [0] * 6


def test_boxes_of_another_layout_are_refused(tmp_path: Path) -> None:
    for text in ("no json", "[]", '{"1": [{"labels": []}]}', '{"1": [{"name": "1/0001.jpg", "labels": [{"box2d": {}}]}]}'):
        (tmp_path / "boxes.json").write_text(text)
        with pytest.raises(OptionsError) as caught:
            read_boxes(tmp_path / "boxes.json")
        assert caught.value.pointer == "/boxes"


def test_masks_are_laid_beside_published_ones(engine: Engine, tmp_path: Path) -> None:
    movie(tmp_path / "clips" / "a.mp4", 0)
    published = [
        {"file": "clips/a.mp4", "frames": 8, "label": "opening", "theirs_mask": [0, 1, 1, 0, 0, 1, 0, 0]},
        {"file": "clips/missing.mp4", "frames": 32, "theirs_mask": [0] * 32},
    ]
    (tmp_path / "masks.json").write_text(json.dumps(published))
    (row,) = compare(engine, MODEL, tmp_path / "masks.json", rows=tmp_path / "rows.jsonl")
    assert row["masks"]["theirs"] == published[0]["theirs_mask"]
    assert len(row["masks"]["ours"]) == 8
    done = CliRunner().invoke(
        app, ["study", "masks", str(tmp_path / "masks.json"), "--model", MODEL, "--rows", str(tmp_path / "rows.jsonl")]
    )
    assert done.exit_code == 0, done.output
    assert "| theirs | 1 | 3.0 ± 0.0 | 2.00 | 0.00 | 0 |" in done.stdout


def test_masks_of_other_lengths_only_are_refused(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "masks.json").write_text(json.dumps([{"file": "a.mp4", "frames": 32, "theirs_mask": [0] * 32}]))
    with pytest.raises(OptionsError, match="8 frames"):
        compare(engine, MODEL, tmp_path / "masks.json")


def test_a_clip_that_cannot_be_used_is_counted_and_the_study_goes_on(engine: Engine, listed: Path, tmp_path: Path) -> None:
    (tmp_path / "1.mp4").write_bytes(b"no video")
    rows = explain_split(engine, MODEL, listed, tmp_path / "out")
    assert [row.get("error") for row in rows] == [None, "unrecognised", None]
    assert data_set_figures(rows)["all"]["clips"] == 2


def test_runs_are_counted() -> None:
    assert [runs(mask) for mask in ([], [0, 0], [1, 1], [1, 0, 1], [0, 1, 1, 0, 1])] == [0, 0, 1, 2, 2]


def test_published_masks_of_another_layout_are_refused(tmp_path: Path) -> None:
    for text in ("no json", '[{"frames": 8}]', "[1]", '[{"file": "a.mp4", "frames": 8, "x_mask": [0, 1]}]'):
        (tmp_path / "masks.json").write_text(text)
        with pytest.raises(OptionsError) as caught:
            read_reference(tmp_path / "masks.json")
        assert caught.value.pointer == "/reference"


def test_the_commands_print_tables_and_json(engine: Engine, listed: Path, tmp_path: Path) -> None:
    arguments = ["study", "dataset", str(listed), "--out", str(tmp_path / "out"), "--model", MODEL, "--limit", "1", "--panels", "0"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("| | all | opening |")
    again = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(again.stdout)["all"]["clips"] == 1
    truth = CliRunner().invoke(app, ["evaluate", "--model", MODEL, "--explanations", "--limit", "1"])
    assert isinstance(truth.exception, OptionsError)  # a model of other classes has no truth to be compared with
