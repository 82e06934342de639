"""Only what answers as the network does is put in place; what fails leaves everything as it was."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from chronolens.cli import app
from chronolens.errors import ExportError, OptionsError, UnknownModelError
from chronolens.export import onnx_graph
from chronolens.export import run as front
from chronolens.export.kind import Answer, Kind
from chronolens.export.manifest import check_files, read_manifest
from chronolens.export.parity import Parity, measure, probes
from chronolens.export.run import export
from chronolens.golden import check_golden, golden_frames
from chronolens.models.weights import find_record, load_model
from chronolens.store import default_store
from chronolens.video.prepare import prepare


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def perturbed(monkeypatch, clstm_artefact):
    """A kind whose graph has weights that are off by a thousandth."""
    proto = onnx.load(clstm_artefact[0] / "model.onnx")
    for one in proto.graph.initializer:
        if one.data_type == onnx.TensorProto.FLOAT:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(1.001), one.name))

    def write(_subject, folder):
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        return {}

    monkeypatch.setitem(front.KINDS, "perturbed", Kind(write, onnx_graph.load))


def test_the_default_place_and_what_the_manifest_says(tiny_store, clstm_artefact):
    folder, manifest = clstm_artefact
    assert folder == (tiny_store / "exports" / "tiny-clstm" / "onnx").resolve()
    assert read_manifest(folder) == manifest
    check_files(folder, manifest)
    record = find_record(tiny_store, "tiny-clstm")
    assert (manifest.weights, manifest.classes) == (record.sha256, list(record.classes))
    (found,) = manifest.maps
    assert (found.layer, found.output, found.pathway) == ("clstm.cell1", "heat_map", None)
    assert found.cells.stride == (1.0, 8.0, 8.0)
    assert manifest.parity.clips == 4
    assert manifest.parity.max_logit_difference <= 1e-5
    assert manifest.options["opset"] == 18
    assert manifest.packages["onnxruntime"] == "1.31.1"
    clip = torch.from_numpy(prepare(golden_frames(record.clip), record.clip))
    check_golden(torch.softmax(load_model(record, tiny_store)(clip), dim=1)[0].numpy(), manifest.golden.scores)
    assert sum(manifest.golden.scores) == pytest.approx(1.0)


def test_perturbed_weights_are_refused_and_nothing_is_written(tiny_store, tmp_path, perturbed):
    with pytest.raises(ExportError, match="is off by") as caught:
        export("perturbed", "tiny-clstm", tiny_store, tmp_path / "deep" / "out")
    assert caught.value.limit in (1e-4, 1e-3)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_artefact_survives_a_refused_one_and_yields_to_a_good_one(tiny_store, tmp_path, monkeypatch, clstm_artefact, perturbed):
    body = (clstm_artefact[0] / "model.onnx").read_bytes()

    def write(_subject, folder):
        (folder / "model.onnx").write_bytes(body)
        return {"try": len(list(tmp_path.iterdir()))}

    monkeypatch.setitem(front.KINDS, "copied", Kind(write, onnx_graph.load))
    folder, _ = export("copied", "tiny-clstm", tiny_store, tmp_path / "out")
    before = everything(tmp_path)
    with pytest.raises(ExportError):
        export("perturbed", "tiny-clstm", tiny_store, folder)
    assert everything(tmp_path) == before
    assert set(before) == {"out/manifest.json", "out/model.onnx"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert export("copied", "tiny-clstm", tiny_store, folder)[1].options == {"try": 2}
    assert everything(tmp_path).keys() == before.keys()


def test_a_folder_with_other_things_is_left_alone(tiny_store, tmp_path, clstm_artefact):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(OptionsError, match="other things"):
        export("onnx", "tiny-clstm", tiny_store, tmp_path)
    (tmp_path / "manifest.json").write_bytes((clstm_artefact[0] / "manifest.json").read_bytes())
    with pytest.raises(OptionsError, match="other things"):
        export("onnx", "tiny-clstm", tiny_store, tmp_path)
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_unknown_names_say_what_exists(tiny_store):
    with pytest.raises(OptionsError) as caught:
        export("tflite", "tiny-clstm", tiny_store)
    assert caught.value.allowed == ["mar", "onnx", "torch-export", "triton"]
    with pytest.raises(UnknownModelError):
        export("onnx", "missing", tiny_store)


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (Parity(4, 1.1e-4, True, 0.0), "logit"),
        (Parity(4, float("nan"), True, 0.0), "logit"),
        (Parity(4, 0.0, True, 1.1e-3), "heat map"),
        (Parity(4, 0.0, False, 0.0), "another class"),
    ],
)
def test_each_limit_is_required(found, word):
    with pytest.raises(ExportError, match=word):
        found.require()


def test_parity_is_measured_by_value(tiny_store):
    record = find_record(tiny_store, "tiny-clstm")
    network = load_model(record, tiny_store)
    asked = probes(record.clip, 4)
    assert [(len(probe.frames), probe.target.tolist()) for probe in asked] == [(1, [-1]), (3, [-1, 3, 0])]

    def off_by(amount):
        def ask(probe):
            logits = network(probe.clip)
            return Answer(logits + amount, {"clstm.cell1": torch.zeros(len(logits), 8, 4, 4)})

        return measure(network, ask, asked)

    exact, shifted = off_by(0.0), off_by(0.5)
    assert (exact.clips, exact.max_logit_difference, exact.same_class, exact.max_heat_map_difference) == (4, 0.0, True, 1.0)
    assert shifted.max_logit_difference == pytest.approx(0.5, abs=1e-6)
    assert np.isnan(off_by(float("nan")).max_logit_difference)
    with pytest.raises(ExportError, match="shape"):
        measure(network, lambda probe: Answer(network(probe.clip)[:1], {"clstm.cell1": torch.zeros(1, 8, 4, 4)}), asked)


@pytest.mark.parametrize("name", ["tiny-clstm", "tiny-i3d"])
def test_the_command_exports_for_pytorch_and_it_reloads(tiny_store, tmp_path, name):
    done = CliRunner().invoke(app, ["export", "torch-export", name, "--store", str(tiny_store), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["parity"]["same_class"] is True
    network = load_model(find_record(tiny_store, name), tiny_store)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for count in (1, 2, 5):
        clip = torch.randn(count, 3, 8, 32, 32, generator=torch.Generator().manual_seed(count))
        logits, scores, explained, _ = program(clip, torch.full((count,), -1))
        expected = network(clip)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scores, torch.softmax(expected, dim=1), atol=1e-6, rtol=0)
        assert explained.tolist() == expected.argmax(dim=1).tolist()
    with zipfile.ZipFile(tmp_path / "out" / "model.pt2") as archive:
        body = b"".join(archive.read(entry) for entry in archive.namelist())
    for named in (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "site-packages"):
        assert named.encode() not in body


@pytest.mark.parametrize("name", ["i3d-synthetic", "clstm-synthetic", "slowfast-synthetic", "tsm-synthetic"])
def test_a_shipped_model_keeps_its_answers(name, tmp_path):
    done = CliRunner().invoke(app, ["export", "onnx", name, "--store", str(default_store()), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "largest difference of a heat map" in done.stdout
    found = read_manifest(tmp_path / "out")
    assert found.parity.max_logit_difference <= 1e-4
    assert found.parity.max_heat_map_difference <= 1e-3
    assert found.parity.same_class
