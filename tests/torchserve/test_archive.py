"""The kind ``mar`` of an export: what is in it, that it is the same twice, and that a wrong one is refused."""

import json
import sys
import tomllib
import zipfile

import pytest

from chronolens.errors import ExportError, OptionsError, WeightsError
from chronolens.export import mar
from chronolens.export.manifest import read_manifest
from chronolens.export.run import export
from chronolens.export.served import handler_file
from chronolens.model_server.server import ModelServer


def test_the_archive_is_a_model_store_of_one_model_with_a_handler(archive_store):
    folder = archive_store / "exports" / "tiny-i3d" / "mar"
    with zipfile.ZipFile(folder / "tiny-i3d.mar") as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        records = tomllib.loads(archive.read("weights.toml").decode())
        config = archive.read("model-config.yaml").decode()
        handler = archive.read("torchserve_handler.py")
        golden = json.loads(archive.read("golden.json"))
    files = {"model-config.yaml", "torchserve_handler.py", "weights.toml", "tiny-i3d.safetensors", "golden.json"}
    assert names == {"MAR-INF/MANIFEST.json"} | files
    assert manifest["model"] == {
        "modelName": "tiny-i3d",
        "handler": "torchserve_handler.py",
        "modelVersion": "1.0",
        "configFile": "model-config.yaml",
    }
    assert list(records) == ["tiny-i3d"]
    assert "batchSize: 8\nmaxBatchDelay: 1\n" in config
    assert "clientTimeoutInMills" not in config
    assert handler == handler_file("torchserve_handler.py").read_bytes()
    written = read_manifest(folder)
    assert (written.kind, written.weights, written.golden.scores) == ("mar", records["tiny-i3d"]["sha256"], golden["scores"])
    assert set(written.files) == {"tiny-i3d.mar"}
    assert written.parity.max_logit_difference <= 1e-4
    assert written.parity.max_heat_map_difference <= 1e-3
    assert "torch-model-archiver" in written.packages


def test_the_same_weights_give_the_same_bytes(archive_store, tmp_path):
    folder, manifest = export("mar", "tiny-clstm", archive_store, tmp_path / "again")
    assert (folder / "tiny-clstm.mar").read_bytes() == (archive_store / "exports/tiny-clstm/mar/tiny-clstm.mar").read_bytes()
    assert manifest == read_manifest(archive_store / "exports" / "tiny-clstm" / "mar")


def test_an_archive_that_answers_otherwise_is_refused(archive_store, tmp_path, monkeypatch):
    monkeypatch.setattr(mar, "golden_text", lambda _subject: '{"seed": 0, "scores": [1, 0, 0, 0]}')
    with pytest.raises(WeightsError, match="does not answer as recorded"):
        export("mar", "tiny-clstm", archive_store, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_name_that_torchserve_does_not_take_is_refused():
    with pytest.raises(ExportError, match="takes no model of that name"):
        mar._manifest("two words")


def test_without_the_archiver_the_error_says_what_to_install(monkeypatch):
    for name in [one for one in sys.modules if one.startswith("model_archiver")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_archiver", None)
    with pytest.raises(OptionsError, match=r"chronolens\[torchserve\]"):
        mar._manifest("tiny-clstm")


def test_a_store_of_several_models_is_no_archive(tiny_store):
    with pytest.raises(WeightsError, match="exactly one"):
        ModelServer(tiny_store, name="torchserve")
