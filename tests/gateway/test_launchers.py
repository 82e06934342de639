"""What the launchers of model servers share: fresh artefacts, free ports, folders of their own."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from chronolens.export import manifest as manifests
from chronolens.export.run import export
from chronolens.store import digests
from chronolens_gateway.servers import exports as exporting
from chronolens_gateway.servers.exports import current, ensure
from chronolens_gateway.servers.places import announce, chosen_ports, emptied, run_folder

MODEL = "tiny-i3d"


@pytest.fixture(scope="module")
def artefact(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported archive."""
    folder = tmp_path_factory.mktemp("exports") / MODEL / "mar"
    export("mar", MODEL, tiny_store, folder)
    return folder


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, True), ({"record": "00"}, False), ({"packages": {"chronolens": "0.0.1"}}, False), ({"recipe": "00"}, False)],
)
def test_an_artefact_is_current_when_weights_and_version_are(
    artefact: Path, tmp_path: Path, change: dict[str, Any], expected: bool
) -> None:
    copied = shutil.copytree(artefact, tmp_path / "mar")
    written = manifests.read_manifest(copied)
    manifests.write_manifest(written.model_copy(update=change), copied)
    assert current(copied, written.record) is expected


def test_a_missing_or_damaged_artefact_is_not_current(artefact: Path, tmp_path: Path) -> None:
    record = manifests.read_manifest(artefact).record
    assert not current(tmp_path / "nowhere", record)
    copied = shutil.copytree(artefact, tmp_path / "mar")
    with (copied / f"{MODEL}.mar").open("ab") as file:
        file.write(b"x")
    assert not current(copied, record)


def test_another_label_or_preparation_makes_an_artefact_stale(tiny_store: Path, artefact: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(tiny_store, store, ignore=shutil.ignore_patterns("exports"))
    assert current(artefact, digests(store)[MODEL])
    records = store / "weights.toml"
    records.write_text(records.read_text(encoding="utf-8").replace('"opening"', '"parting"'), encoding="utf-8")
    assert not current(artefact, digests(store)[MODEL])


def test_only_what_is_missing_is_exported(tiny_store: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(exporting, "_export", lambda kind, name, _store, _out: made.append((kind, name)))
    assert ensure("mar", tiny_store, artefact.parents[1]) == list(digests(tiny_store))
    assert made == [("mar", "tiny-clstm")]
    assert ensure("mar", tiny_store, artefact.parents[1], [MODEL]) == [MODEL]
    assert len(made) == 1


def test_a_missing_artefact_is_exported_in_a_process_of_its_own(tiny_store: Path, tmp_path: Path) -> None:
    assert ensure("mar", tiny_store, tmp_path, ["tiny-clstm"]) == ["tiny-clstm"]
    assert current(tmp_path / "tiny-clstm" / "mar", digests(tiny_store)["tiny-clstm"])


@pytest.mark.parametrize("models", [["nobody"], None])
def test_no_such_models_end_the_launcher_with_a_message(tiny_store: Path, tmp_path: Path, models: list[str] | None) -> None:
    store = tmp_path if models is None else tiny_store
    with pytest.raises(SystemExit, match="CHRONOLENS_MODEL_STORE"):
        ensure("mar", store, tmp_path, models)


def test_free_ports_are_all_different_and_given_ones_are_kept() -> None:
    names = [f"port{number}" for number in range(20)]
    chosen = chosen_ports(names, argparse.Namespace(port3_port=8182, port4_port=0))
    assert chosen["port3"] == 8182
    assert len(set(chosen.values())) == len(names)
    assert all(0 < port < 65536 for port in chosen.values())


def test_folders_and_addresses(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700
    (emptied(folder / "c") / "left").touch()
    assert not list(emptied(folder / "c").iterdir())
    announce(folder / "x.json", {"http": "127.0.0.1:1"})
    assert json.loads((folder / "x.json").read_text()) == {"http": "127.0.0.1:1"}
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["x.json"]
