"""Own models from the outside: the page about them, the command line, the environment, a real service."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.conftest import EXAMPLES

from chronolens.cli import main
from chronolens.errors import PluginError
from chronolens.model_server import triton
from chronolens.plugin_names import use
from chronolens_gateway.servers import exports
from chronolens_gateway.servers.exports import current, ensure, records

PLUGIN = "own_model:build"
CLIP = EXAMPLES / "sample.mp4"
PAGE = EXAMPLES.parent / "docs" / "own-model.md"


@pytest.fixture
def alone(monkeypatch):
    """This process with nothing but what the tests themselves add to where modules are found."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("CHRONOLENS_PLUGINS", "")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    yield
    sys.modules.pop("own_model", None)


def command(*arguments, **environment):
    line = [sys.executable, "-c", "from chronolens.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(line, cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_page_shows_the_example():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example = (EXAMPLES / "own_model.py").read_text(encoding="utf-8")
    assert example.endswith(block)
    made = {}
    exec(block, made)
    assert made["build"]().name == "tiny-own"


def test_the_current_folder_can_be_imported_here_and_in_what_is_started(alone, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    use()
    assert str(EXAMPLES) not in sys.path
    use([PLUGIN, PLUGIN])
    assert os.environ["CHRONOLENS_PLUGINS"] == PLUGIN
    assert (sys.path[0], os.environ["PYTHONPATH"]) == (str(EXAMPLES), str(EXAMPLES))
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    use(["other:build"])
    assert os.environ["CHRONOLENS_PLUGINS"] == f"{PLUGIN},other:build"
    assert os.environ["PYTHONPATH"] == f"{EXAMPLES}{os.pathsep}/elsewhere"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_predict_and_explain(alone, monkeypatch, capsys, tmp_path, tiny_store, by):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(tiny_store))
    option = ["--plugin", PLUGIN] if by == "option" else []
    if by == "variable":
        monkeypatch.setenv("CHRONOLENS_PLUGINS", PLUGIN)

    def answer(*arguments):
        monkeypatch.setattr(sys, "argv", ["chronolens", *map(str, arguments), *option, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return json.loads(capsys.readouterr().out)

    predicted = answer("predict", CLIP, "--model", "tiny-own")
    assert (predicted["model"], predicted["warnings"]) == ("tiny-own", ["untrained"])
    out = tmp_path / "out"
    explained = answer("explain", CLIP, "--model", "tiny-own", "--layers", "early,late", "--mask-preset", "exhaustive", "--out", out)
    assert [entry["layer"] for entry in explained["gradcam"]] == ["early", "late"]
    assert explained["provenance"]["weights"] == predicted["weights"]
    assert {info["name"] for info in answer("models")["models"]} == {"tiny-clstm", "tiny-i3d", "tiny-own"}


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("own_model", "plugin-invalid: a plugin is written module:function, such as my_model:build, not 'own_model'"),
        ("nowhere:build", "plugin-invalid: the plugin nowhere:build cannot be imported: ModuleNotFoundError"),
        ("own_model:built", "plugin-invalid: the plugin own_model:built: the module own_model has no function built"),
    ],
)
def test_a_wrong_plugin_is_one_line_and_status_2(alone, monkeypatch, capsys, plugin, words):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["chronolens", "models", "--plugin", plugin])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(words)


def test_an_export_by_name(tiny_store, tmp_path):
    done = command(
        "export", "mar", "tiny-own", "--plugin", PLUGIN, "--store", tiny_store, "--out", tmp_path / "mar", "--json", PYTHONPATH=""
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert (manifest["model"], manifest["classes"]) == ("tiny-own", ["up", "down", "still"])


def test_launchers_know_own_models_without_torch(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    assert set(records(tiny_store)) == {"tiny-clstm", "tiny-i3d"}
    monkeypatch.setenv("CHRONOLENS_PLUGINS", PLUGIN)
    known = records(tiny_store)
    assert list(known) == ["tiny-clstm", "tiny-i3d", "tiny-own"]
    assert ensure("mar", tiny_store, tmp_path, ["tiny-own"]) == ["tiny-own"]
    assert current(tmp_path / "tiny-own" / "mar", known["tiny-own"])
    made = []
    monkeypatch.setattr(exports, "_export", lambda *arguments: made.append(arguments))
    ensure("mar", tiny_store, tmp_path, ["tiny-own"])
    assert not made


def test_other_code_makes_an_artefact_stale(tiny_store, tmp_path, monkeypatch):
    own = tmp_path / "own_model.py"
    own.write_text((EXAMPLES / "own_model.py").read_text())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CHRONOLENS_PLUGINS", PLUGIN)
    before = records(tiny_store)
    own.write_text(own.read_text().replace("mean(dim=(3, 4))", "amax(dim=(3, 4))"))
    after = records(tiny_store)
    assert before.pop("tiny-own") != after.pop("tiny-own")
    assert before == after


def test_a_launcher_ends_with_what_is_wrong(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setenv("CHRONOLENS_PLUGINS", "nowhere:build")
    with pytest.raises(SystemExit, match="the plugin nowhere:build cannot be imported: ModuleNotFoundError"):
        ensure("mar", tiny_store, tmp_path)


def test_a_service_that_is_told_of_a_plugin_serves_it(tiny_store, tmp_path):
    line = [sys.executable, "-c", "from chronolens.cli import main; main()", "serve", "--port", "0", "--plugin", PLUGIN]
    environment = {**os.environ, "CHRONOLENS_DATA_DIR": str(tmp_path / "data"), "CHRONOLENS_MODEL_STORE": str(tiny_store)}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(line, cwd=EXAMPLES, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            ready = process.stdout.readline()
            assert ready.startswith("chronolens is ready"), Path(log.name).read_text()
            with httpx.Client(base_url=ready.split()[-1], timeout=60) as http:
                served = {info["name"]: info for info in http.get("/v1/models").json()["models"]}
                assert served["tiny-own"]["layers"] == ["early", "late"]
                with CLIP.open("rb") as file:
                    answer = http.post("/v1/predictions", files={"clip": file}, data={"model": "tiny-own"})
                assert answer.status_code == 200, answer.text
                assert answer.json()["predictions"][0]["label"] in ("up", "down", "still")
                with CLIP.open("rb") as file:
                    options = {"options": json.dumps({"model": "tiny-own", "methods": ["gradcam"], "gradcam": {"layers": "all"}})}
                    answer = http.post("/v1/explanations", files={"clip": file}, data=options, headers={"Prefer": "wait=60"})
                assert {entry["layer"] for entry in answer.json()["result"]["gradcam"]} == {"early", "late"}, answer.text
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def test_a_service_with_a_wrong_word_does_not_start(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "chronolens_gateway", "--port", "0"],
        env={**os.environ, "CHRONOLENS_PLUGINS": "own_model", "CHRONOLENS_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("chronolens cannot start: a plugin is written module:function")


def test_use_refuses_what_is_no_plugin(alone):
    with pytest.raises(PluginError):
        use(["own_model.build"])
    assert os.environ["CHRONOLENS_PLUGINS"] == ""


def test_an_interpreter_inside_a_server_finds_what_the_path_says(monkeypatch):
    monkeypatch.setattr(sys, "path", ["a"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["x", "a", "", "y"]))
    triton._read_python_path()
    assert sys.path == ["a", "x", "y"]
