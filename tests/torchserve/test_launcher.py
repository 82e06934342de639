"""What the launcher writes, without starting a server."""

import json
import sys

import pytest

from chronolens_gateway.servers import torchserve

PORTS = {name: 7000 + number for number, name in enumerate(torchserve._PORTS)}


def test_the_configuration_is_closed(tmp_path):
    config = torchserve.configuration(tmp_path, PORTS, ["a", "b-1"])
    addresses = [value for name, value in config.items() if name.endswith("_address")]
    assert len(addresses) == 5
    assert all("127.0.0.1" in address for address in addresses)
    assert (config["disable_token_authorization"], config["enable_model_api"], config["allowed_urls"]) == ("false", "false", "(?!)")
    assert config["load_models"] == "a=a.mar,b-1=b-1.mar"
    assert int(config["max_request_size"]) > 64 * 1024 * 1024
    assert config["metrics_mode"] == "prometheus"
    assert "clientTimeoutInMills" not in config


def test_properties_are_escaped_for_java():
    text = torchserve.properties({"model_store": "/a b\\c/\u00e4/\U0001f3a5", "x": "(?!)"})
    assert text == "model_store=/a b\\u005cc/\\u00e4/\\ud83c\\udfa5\nx=(?!)\n"


def test_sockets_of_a_deep_run_folder_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(torchserve.tempfile, "gettempdir", lambda: str(tmp_path))
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    found = torchserve._temporary(deep)
    assert found.parent == tmp_path
    assert found.stat().st_mode & 0o777 == 0o700
    assert torchserve._temporary(deep) == found


def test_without_java_the_launcher_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(torchserve.shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match="Java 17 is not installed"):
        torchserve.command(tmp_path, tmp_path)


def test_without_torchserve_the_launcher_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "/opt/java")
    monkeypatch.setattr(torchserve, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match="extra torchserve"):
        torchserve.command(tmp_path, tmp_path)


def test_stale_archives_are_exported_and_everything_is_written_before_the_server_starts(archive_store, tmp_path, monkeypatch):
    """Everything up to the exec, which is replaced; the export is a real one, in its own process."""
    exports, folder = tmp_path / "exports", tmp_path / "run"
    arguments = ["--folder", str(folder), "--store", str(archive_store), "--exports", str(exports), "--models", "tiny-clstm"]
    became = []
    monkeypatch.setattr(sys, "argv", ["torchserve", *arguments])
    monkeypatch.setattr(torchserve, "command", lambda *_where: ["java"])
    monkeypatch.setattr(torchserve.os, "execv", lambda *line: became.append(line))
    monkeypatch.setattr(torchserve.os, "dup2", lambda *_streams: None)
    monkeypatch.setattr(torchserve.os, "environ", dict(torchserve.os.environ))
    monkeypatch.chdir(tmp_path)
    torchserve.main()
    assert became == [("java", ["java"])]
    assert (folder / "archives" / "tiny-clstm.mar").read_bytes() == (exports / "tiny-clstm" / "mar" / "tiny-clstm.mar").read_bytes()
    assert [one.name for one in (folder / "archives").iterdir()] == ["tiny-clstm.mar"]
    announced = json.loads((folder / "torchserve.json").read_text())
    assert announced["models"] == ["tiny-clstm"]
    assert announced["inference"] in (folder / "config.properties").read_text()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert torchserve.os.environ["TMPDIR"] == str(torchserve._temporary(folder))
