"""What is written is what is read, and nothing else is read."""

import json

import pytest

from chronolens.errors import WeightsError
from chronolens.export.manifest import (
    FileFacts,
    Golden,
    Manifest,
    MapFacts,
    ParityFacts,
    check_files,
    describe_files,
    read_manifest,
    write_manifest,
)
from chronolens.schemas import Cells, ClipSpecInfo

CELLS = Cells(stride=(1.0, 8.0, 8.0), first=(0.5, 3.5, 3.5))
MANIFEST = Manifest(
    kind="onnx",
    model="tiny",
    architecture="clstm",
    data_set="none",
    licence="Apache-2.0",
    warnings=["räudig"],
    weights="ab" * 32,
    record="ef" * 32,
    clip=ClipSpecInfo(frames=8, height=32, width=32, sampling="centre", scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    classes=["a", "b"],
    maps=[MapFacts(layer="clstm.cell1", output="heat_map", cells=CELLS, pathway=None, stage="stage2")],
    options={"opset": 18},
    packages={"torch": "2"},
    recipe="cd" * 32,
    parity=ParityFacts(clips=4, max_logit_difference=1e-7, same_class=True, max_heat_map_difference=0.0),
    golden=Golden(seed=0, scores=[0.1, 0.9]),
    files={"1/model.onnx": FileFacts(bytes=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")},
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"abc")
    write_manifest(MANIFEST, tmp_path)
    return tmp_path


def test_a_manifest_survives_the_file(folder):
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    assert read_manifest(folder) == MANIFEST
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert "räudig" in text
    write_manifest(read_manifest(folder), folder)
    assert (folder / "manifest.json").read_text(encoding="utf-8") == text


def test_files_are_found_and_checked(folder):
    assert describe_files(folder) == MANIFEST.files
    check_files(folder, MANIFEST)
    (folder / "1" / "model.onnx").write_bytes(b"abd")
    with pytest.raises(WeightsError, match=r"1/model\.onnx"):
        check_files(folder, MANIFEST)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 1}, "format"),
        ({"secret": 1}, "secret"),
        ({"classes": "ab"}, "classes"),
        ({"golden": {"seed": "0", "scores": []}}, "golden/seed"),
        ({"parity": {"clips": 4, "max_logit_difference": 0.0, "same_class": True}}, "max_heat_map_difference"),
    ],
)
def test_a_strange_manifest_is_refused(folder, change, word):
    changed = {**MANIFEST.model_dump(mode="json"), **change}
    (folder / "manifest.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(WeightsError, match=word):
        read_manifest(folder)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_no_manifest_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError):
        read_manifest(tmp_path)
