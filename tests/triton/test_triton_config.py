"""What is written for Triton, without a server."""

import json
import shutil

import pytest
from google.protobuf.text_format import Parse
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup, ModelQueuePolicy

from chronolens.engine_wire import LANES
from chronolens.errors import ExportError, WeightsError
from chronolens.export.manifest import read_manifest
from chronolens.export.run import export
from chronolens.export.triton import TRITON
from chronolens.model_server.server import ModelServer
from chronolens.model_server.triton import open_graph
from chronolens.models.weights import find_record
from chronolens.store import default_store

NAME = "tiny-clstm"


def read(folder, name="config.pbtxt"):
    return Parse((folder / name).read_text(), ModelConfig())


def test_explanation_has_a_priority_for_each_lane(exports, tiny_store):
    config = read(exports / NAME / "triton" / f"{NAME}-explain")
    batching = config.dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (len(LANES), len(LANES))
    policy = batching.default_queue_policy
    assert (policy.timeout_action, policy.allow_timeout_override, policy.max_queue_size) == (ModelQueuePolicy.REJECT, True, 64)
    assert (config.max_batch_size, config.backend, config.input[0].allow_ragged_batch) == (8, "python", True)
    assert config.parameters["weights"].string_value == find_record(tiny_store, NAME).sha256


def test_graph_is_described_for_both_backends(exports):
    folder = exports / NAME / "triton" / NAME
    native, python = read(folder), read(folder, "configs/python.pbtxt")
    assert (native.backend, native.default_model_filename) == ("onnxruntime", "model.onnx")
    assert (python.backend, python.default_model_filename) == ("python", "model.py")
    assert [list(one.dims) for one in native.input] == [[3, 8, 32, 32], [1]]
    assert [one.name for one in native.output] == ["logits", "scores", "explained", "heat_map"]
    assert native.instance_group[0].kind == ModelInstanceGroup.KIND_AUTO
    assert native.model_warmup[0].inputs["clip"].zero_data
    assert (folder / "labels.txt").read_text().split() == ["opening", "closing", "turning", "holding"]
    del native.model_warmup[:]
    for one in (native, python):
        one.ClearField("backend")
        one.ClearField("default_model_filename")
    assert native == python


def test_manifest_names_every_file_and_the_proof(exports):
    manifest = read_manifest(exports / NAME / "triton")
    assert manifest.kind == "triton"
    assert manifest.parity.max_logit_difference < 1e-4
    assert set(manifest.files) >= {f"{NAME}/1/model.onnx", f"{NAME}-explain/1/weights.toml"}


@pytest.mark.parametrize(("model", "opened"), [(NAME, open_graph), (f"{NAME}-explain", lambda one: ModelServer(one, "cpu", name="triton"))])
def test_folder_that_answers_otherwise_is_refused(exports, tmp_path, model, opened):
    shutil.copytree(exports / NAME / "triton" / model / "1", tmp_path / "1")
    golden = json.loads((tmp_path / "1" / "golden.json").read_text())
    golden["scores"][0] += 0.01
    (tmp_path / "1" / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(WeightsError) as caught:
        opened(tmp_path / "1")
    assert caught.value.code == "golden-clip"


def test_name_that_looks_like_an_explanation_is_refused(tmp_path):
    import dataclasses

    from chronolens.clips import ClipSpec
    from chronolens.export.kind import Subject
    from chronolens.models.weights import WeightsRecord

    record = WeightsRecord("a-explain", "i3d", {}, ClipSpec(8, 32, 32), (), "none", "Apache-2.0", "")
    with pytest.raises(ExportError):
        TRITON.write(dataclasses.replace(Subject(record, None, tmp_path)), tmp_path)


def test_two_pathways_have_two_heat_maps(tmp_path):
    name = "slowfast-synthetic"
    folder, manifest = export("triton", name, default_store(), tmp_path / "out")
    outputs = {one.name: list(one.dims) for one in read(folder / name).output}
    assert {output: dims for output, dims in outputs.items() if output.startswith("heat")} == {
        "heat_map_0": [4, 7, 7],
        "heat_map_1": [16, 7, 7],
    }
    assert [(one.output, one.pathway, one.cells.frames) for one in manifest.maps] == [
        ("heat_map_0", "slow", [0, 5, 10, 15]),
        ("heat_map_1", "fast", None),
    ]
    assert manifest.parity.max_heat_map_difference <= 1e-3
