"""``chronolens models``: what is served, one model's facts, imports, pulls; on tiny networks."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from tests.importing.foreign import theirs
from typer.testing import CliRunner

from chronolens.cli import app, main
from chronolens.engine import Engine
from chronolens.errors import OptionsError, UnknownModelError
from chronolens.importing.dialects import DIALECTS
from chronolens.store import RECORDS, file_digest


def run(*arguments):
    return CliRunner().invoke(app, ["models", *(str(argument) for argument in arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "published" / "tsm.pth"
    path.parent.mkdir()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in theirs("tsm").items()}}, path)
    return path


@pytest.fixture
def store(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(folder))
    return folder


def test_without_a_command_the_served_models_are_listed(monkeypatch, tiny_store):
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(tiny_store))
    listed = json.loads(run("--json").stdout)["models"]
    assert [info["name"] for info in listed] == ["tiny-clstm", "tiny-i3d"]
    assert "tiny-clstm" in run().stdout


def test_show(monkeypatch, tiny_store):
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(tiny_store))
    info = json.loads(run("show", "tiny-i3d", "--json").stdout)
    assert info["default_layers"] == ["Mixed_5c"]
    told = run("show", "tiny-i3d").stdout
    for line in (
        "architecture:   i3d",
        "clip:           8 x 32 x 32, sampling centre, interval 1",
        "default layers: Mixed_5c",
        "note:           random",
    ):
        assert line in told
    assert "stage4:         Mixed_4f" in told
    assert "Mixed_3b.b1a" in told
    assert "tiny-clstm" in run("show", "tiny-clstm", "--store", tiny_store).stdout
    assert isinstance(run("show", "nothing").exception, UnknownModelError)


def test_import_makes_a_served_model(file, store, tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    done = run(
        "import", file, "--name", "mine", "--labels", tmp_path / "labels.txt", "--licence", "MIT", "--data-set", "five",
        "--frames", 4, "--size", 96, "--sampling", "linspace", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert (record["name"], record["architecture"], record["licence"], record["data_set"]) == ("mine", "tsm", "MIT", "five")
    assert record["clip"] | {"frames": 4, "height": 96, "width": 96, "sampling": "linspace", "interval": 1} == record["clip"]
    info = Engine().describe("mine")
    assert info.classes == list("abcde")
    assert (info.clip.resize, info.clip.interpolation) == ("crop", "pil")


def test_import_tells_what_it_made(file, store):
    told = run("import", file, "--as", "tsm").stdout
    assert f"tsm: tsm, 5 classes, tsm.pth, sha256 {file_digest(file)}, read as tsm" in told
    assert "clips: 8 x 224 x 224, centre every 1, crop" in told
    assert "note: the names of the classes are not known" in told
    assert isinstance(run("import", file, "--as", "tsm").exception, OptionsError)
    assert run("import", file, "--replace", "--store", store).exit_code == 0


def test_import_of_options_that_weights_do_not_show(file, store):
    assert json.loads(run("import", file, "--config", "dropout=0.8", "--json").stdout)["config"]["dropout"] == 0.8
    for text in ("dropout", "=3", "dropout=", "dropout=null", 'dropout={"a": 1}', "head=wide"):
        assert isinstance(run("import", file, "--config", text, "--name", "x").exception, OptionsError)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "1"], "size 1 is no whole number from 32 to 1024"),
        (["--frames", "1000000"], "frames 1000000 is no whole number from 1 to 256"),
        (["--sampling", "mmaction2", "--interval", "1000000000"], "interval 1000000000 is no whole number from 1 to 1000"),
        (["--config", "shift=-8"], "shift is a whole number"),
        (["--as", "pytorch-i3d"], "missing: Conv3d_1a_7x7.conv3d.weight, "),
        (["--as", "keras"], "allowed: " + ", ".join(DIALECTS)),
        (["--frames", "4", "--sampling", "best"], "unknown sampling rule 'best'"),
    ],
)
def test_errors_end_with_one_line_and_status_2(file, store, arguments, told, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["chronolens", "models", "import", str(file), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not store.exists()


@pytest.fixture
def public(file, store):
    """A list with one file that a server on this machine publishes."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(file.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        store.mkdir()
        lines = [
            "[public.mine]",
            f'url = "http://127.0.0.1:{server.server_port}/tsm.pth"',
            'what = "small"',
            'licence = "MIT"',
            'data_set = "five"',
        ]
        (store / RECORDS).write_text("\n".join(lines))
        yield server
        server.shutdown()
        thread.join()


def test_pull_fetches_checks_and_imports(public, file, store, tmp_path):
    done = run("pull", "mine", "--downloads", tmp_path / "in", "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert (record["name"], record["licence"], record["data_set"], record["architecture"]) == ("mine", "MIT", "five", "tsm")
    assert (tmp_path / "in" / "mine" / "tsm.pth").read_bytes() == file.read_bytes()
    listed = json.loads(run("public", "--json").stdout)["public"]
    assert {entry["name"]: entry["sha256"] for entry in listed}["mine"] == file_digest(file)
    assert [info.name for info in Engine().models()] == ["mine"]


def test_pull_keeps_what_it_fetched_in_the_cache(public, file, store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run("pull", "mine").exit_code == 0
    assert (tmp_path / "cache" / "chronolens" / "downloads" / "mine" / "tsm.pth").is_file()


def test_pull_of_a_copy_needs_no_network(public, file, store, tmp_path):
    public.shutdown()
    assert run("pull", "mine", "--file", file, "--name", "by-hand").exit_code == 0
    assert Engine().describe("by-hand").data_set == "five"


def test_pull_without_a_network_says_so(store, monkeypatch, capsys, tmp_path):
    store.mkdir()
    (store / RECORDS).write_text('[public.mine]\nurl = "http://127.0.0.1:9/tsm.pth"\nwhat = ""\nlicence = ""\ndata_set = ""\n')
    monkeypatch.setattr("sys.argv", ["chronolens", "models", "pull", "mine", "--downloads", str(tmp_path / "in")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "the publisher cannot be reached (ConnectError); without a network, bring the file by hand" in capsys.readouterr().err


def test_the_public_list(store):
    told = run("public").stdout
    assert "slowfast-r50-8x8-kinetics400" in told
    assert "not published" in told
    assert isinstance(run("pull", "nothing").exception, UnknownModelError)
