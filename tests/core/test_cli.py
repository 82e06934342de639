"""The command line and the three lines of Python, on a real file with tiny networks."""

import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from chronolens.cli import app, main
from chronolens.errors import OptionsError, UnknownModelError, UnsupportedClipError
from chronolens.local import explain, predict
from chronolens.summary import prediction_table
from chronolens.video.encode import write_h264

FILES = {"panel.mp4", "gradcam.mp4", "freeze.mp4", "reverse.mp4", "arrays.npz", "strip.png", "result.json"}


@pytest.fixture
def movie(tmp_path):
    """Twelve frames of 64 x 48 at 10 fps, a square moving right."""
    frames = np.full((12, 48, 64, 3), 60, np.uint8)
    for number in range(12):
        frames[number, 10:22, 4 * number : 4 * number + 12] = (240, 220, 40)
    path = tmp_path / "movie.mp4"
    write_h264(path, frames, np.arange(12) / 10)
    return path


@pytest.fixture(autouse=True)
def served(monkeypatch, tiny_store):
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(tiny_store))


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_explain_writes_the_files_and_prints_one_object(movie, tmp_path):
    done = run(
        "explain", movie, "--model", "tiny-clstm", "--methods", "gradcam,freeze,reverse", "--mask-preset", "default", "--steps", 3,
        "--target", "closing", "--true-class", "2", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    assert result["target"] == {"class_index": 1, "label": "closing", "why": "requested"}
    assert result["clip"]["frames"] == 12
    assert [entry["frame"] for entry in result["clip"]["sampled"]] == [0, 2, 3, 5, 6, 8, 9, 11]
    assert result["provenance"]["options"]["mask"]["steps"] == 3


def test_explain_in_words(movie, tmp_path):
    done = run("explain", movie, "--model", "tiny-clstm", "--steps", 1, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    for word in ("tiny-clstm says", "freeze mask", "OS 0.", "random weights"):
        assert word in done.stdout


def test_predict_and_models(movie):
    result = json.loads(run("predict", movie, "--model", "tiny-i3d", "--top-k", 2, "--json").stdout)
    assert len(result["predictions"]) == 2
    assert "tiny-i3d says" in run("predict", movie, "--model", "tiny-i3d").stdout
    models = json.loads(run("models", "--json").stdout)["models"]
    assert [info["name"] for info in models] == ["tiny-clstm", "tiny-i3d"]
    assert models[1]["default_layers"] == ["Mixed_5c"]
    assert "tiny-clstm" in run("models").stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--model", "nothing"], "unknown-model"),
        (["--model", "tiny-clstm", "--target", "nothing"], "unknown-class"),
        (["--model", "tiny-clstm", "--layers", "nothing"], "unknown-layer"),
        (["--model", "tiny-clstm", "--methods", "nothing"], "invalid-option"),
        (["--model", "tiny-clstm", "--mask-preset", "nothing"], "invalid-option"),
    ],
)
def test_bad_options_end_with_one_line_and_status_2(movie, tmp_path, arguments, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["chronolens", "explain", str(movie), "--out", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.strip().startswith(code)
    assert "Traceback" not in message


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(UnsupportedClipError) as caught:
        predict(tmp_path / "clip.mp4", model="tiny-clstm")
    assert caught.value.code == "playlist"


def test_three_lines_of_python(movie, tmp_path):
    result = explain(movie, model="tiny-clstm", out=tmp_path / "out", mask={"preset": "default", "steps": 1})
    assert result.masks["freeze"].length == sum(result.masks["freeze"].active)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert explain(movie, model="tiny-clstm", methods=["gradcam"]).artefacts == []
    with pytest.raises(UnknownModelError):
        explain(movie, model="nothing")
    with pytest.raises(OptionsError) as wrong:
        explain(movie, model="tiny-clstm", mask={"steps": 0})
    assert wrong.value.pointer == "/mask/steps"


def test_help_does_not_import_torch():
    code = "import sys; from chronolens import cli, client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_files_and_bad_folders_end_with_status_2(movie, tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("")
    for arguments in (["predict", str(tmp_path / "none.mp4")], ["predict", str(tmp_path)], ["serve", "--port", "99999"]):
        assert run(*arguments).exit_code == 2
    monkeypatch.setattr(sys, "argv", ["chronolens", "explain", str(movie), "--model", "tiny-clstm", "--out", str(tmp_path / "taken")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_labels_with_brackets_are_printed_as_they_are(capsys):
    result = {"model": "m", "predictions": [{"score": 0.5, "label": "Moving [something] up [/red]"}], "warnings": ["[note]"]}
    Console(width=120).print(prediction_table(result))
    shown = capsys.readouterr().out
    assert "Moving [something] up [/red]" in shown
    assert "[note]" in shown
