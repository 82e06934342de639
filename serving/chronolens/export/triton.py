"""Kind ``triton``: a model repository with two models for a Triton server.

    MODEL/config.pbtxt                 ONNX graph for stock clients, run by the server's own backend ``onnxruntime``
    MODEL/configs/python.pbtxt         the same by ONNX Runtime in Python: ``tritonserver --model-config-name=python``
    MODEL/labels.txt  MODEL/1/{model.onnx, model.py, clip.json, golden.json}
    MODEL-explain/config.pbtxt         everything else, by the Python backend: packed calls in, packed answers out
    MODEL-explain/1/{model.py, weights.toml, MODEL.safetensors, golden.json}

The same weights give the same bytes. Code is not packed: the Python that the server runs must have this package installed, and for an own
model, which has no file of weights, be able to import its plugin.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from chronolens.engine_wire import LANES
from chronolens.errors import ExportError, OptionsError
from chronolens.explain import grad_cam
from chronolens.export import onnx_graph, parity
from chronolens.export.kind import Answer, Ask, Kind, Options, Subject
from chronolens.export.served import asking, golden_text, handler_file, put_model
from chronolens.model_server.server import GOLDEN, ModelServer
from chronolens.model_server.triton import ANSWER, CALL, CLIP_FACTS, GRAPH, open_graph

EXPLAIN = "-explain"
MAX_BATCH = 8
SERVING: dict[str, int] = {"max_batch_size": MAX_BATCH, "max_queue_size": 64, "instances": 1}
"""Calls that share an execution, calls that wait in each lane, and instances a device. One instance: a second would share no passes with
the first, and servers before the summer of 2026 lose count of idle instances when priorities are set (triton-inference-server/core#509)."""
_VERSION = "1"
_PYTHON = "python"


def config(subject: Subject, backend: str) -> Any:
    """Return the ``ModelConfig`` of the graph's model.

    Args:
        backend: ``onnxruntime`` or ``python``.
    """
    spec, classes = subject.record.clip, len(subject.record.classes)
    clip = [3, spec.frames, spec.height, spec.width]
    row = {"dims": [1], "reshape": {"shape": []}}  # Triton counts the axis of clips apart, and allows no empty shape without this
    found: dict[str, Any] = {
        "name": subject.record.name,
        "backend": backend,
        "default_model_filename": GRAPH if backend == "onnxruntime" else "model.py",
        "input": [{"name": "clip", "data_type": "TYPE_FP32", "dims": clip}, {"name": "target", "data_type": "TYPE_INT64", **row}],
        "output": [
            {"name": "logits", "data_type": "TYPE_FP32", "dims": [classes]},
            {"name": "scores", "data_type": "TYPE_FP32", "dims": [classes], "label_filename": "labels.txt"},
            {"name": "explained", "data_type": "TYPE_INT64", **row},
            *({"name": name, "data_type": "TYPE_FP32", "dims": cells} for name, cells in _heat_maps(subject).items()),
        ],
        "dynamic_batching": {"preferred_batch_size": [MAX_BATCH], "default_queue_policy": {"max_queue_size": SERVING["max_queue_size"]}},
    }
    if backend == "onnxruntime":  # the other one is warm from its golden clip
        zeros = {"clip": ("TYPE_FP32", clip), "target": ("TYPE_INT64", [1])}
        inputs = {name: {"data_type": kind, "dims": dims, "zero_data": True} for name, (kind, dims) in zeros.items()}
        found["model_warmup"] = [{"name": "zeros", "batch_size": 1, "inputs": inputs}]
    return _config(found, subject)


def explain_config(subject: Subject) -> Any:
    """Return the ``ModelConfig`` of the full explanation; the lanes of calls are its priorities."""
    bytes_ = {"data_type": "TYPE_UINT8", "dims": [-1]}
    policy = {
        "timeout_action": "REJECT",
        "allow_timeout_override": True,
        "max_queue_size": SERVING["max_queue_size"],
    }
    batching = {
        "preferred_batch_size": [MAX_BATCH],
        "priority_levels": len(LANES),
        "default_priority_level": len(LANES),
        "default_queue_policy": policy,
    }
    found: dict[str, Any] = {
        "name": subject.record.name + EXPLAIN,
        "backend": _PYTHON,
        "input": [{"name": CALL, **bytes_, "allow_ragged_batch": True}],  # calls of different lengths share a batch
        "output": [{"name": ANSWER, **bytes_}],
        "dynamic_batching": batching,
    }
    return _config(found, subject)


def _config(found: dict[str, Any], subject: Subject) -> Any:
    from google.protobuf.json_format import ParseDict

    common = {
        "max_batch_size": MAX_BATCH,
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"count": SERVING["instances"], "kind": "KIND_AUTO"}],
        "parameters": {"weights": {"string_value": subject.record.sha256}},
    }
    return ParseDict({**found, **common}, _message())


def _message() -> Any:
    try:
        from tritonclient.grpc.model_config_pb2 import ModelConfig
    except ImportError:
        raise OptionsError("what writes Triton's configuration is not installed: pip install chronolens[triton]", pointer="/kind") from None
    return ModelConfig()


def _text(config: Any) -> str:
    from google.protobuf.text_format import MessageToString

    return str(MessageToString(config))


def _heat_maps(subject: Subject) -> dict[str, list[int]]:
    """Return (T', H', W') of each heat map by the name of its output."""
    probe = parity.probes(subject.record.clip, len(subject.record.classes))[0]
    found = grad_cam.heat_maps(subject.network, probe.clip, None).maps
    return {one.output: list(found[one.layer].shape[1:]) for one in onnx_graph.graph_maps(subject)}


def _write(subject: Subject, folder: Path) -> Options:
    name = subject.record.name
    if name.endswith(EXPLAIN):
        raise ExportError(f"A model whose name ends with {EXPLAIN} would be taken for the explanation of another one.")
    _write_graph(subject, folder / name)
    _write_explain(subject, folder / f"{name}{EXPLAIN}")
    return dict(SERVING)


def _write_graph(subject: Subject, folder: Path) -> None:
    version = folder / _VERSION
    for one in (version, folder / "configs"):
        one.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(_text(config(subject, "onnxruntime")), encoding="utf-8")
    (folder / "configs" / f"{_PYTHON}.pbtxt").write_text(_text(config(subject, _PYTHON)), encoding="utf-8")
    (folder / "labels.txt").write_text("".join(f"{' '.join(label.split())}\n" for label in subject.record.classes), encoding="utf-8")
    onnx_graph.write(subject, version)
    (version / "model.py").write_bytes(handler_file("triton/onnx_model.py").read_bytes())
    facts = {"spec": dataclasses.asdict(subject.record.clip), "maps": [dataclasses.asdict(one) for one in onnx_graph.graph_maps(subject)]}
    (version / CLIP_FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    (version / GOLDEN).write_text(golden_text(subject), encoding="utf-8")


def _write_explain(subject: Subject, folder: Path) -> None:
    version = folder / _VERSION
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(_text(explain_config(subject)), encoding="utf-8")
    (version / "model.py").write_bytes(handler_file("triton/model.py").read_bytes())
    (version / GOLDEN).write_text(golden_text(subject), encoding="utf-8")
    put_model(subject, version)


def _load(subject: Subject, folder: Path) -> Ask:
    """Open both models; the explaining one is proven here, the graph by the caller."""
    name = subject.record.name
    server = ModelServer(folder / f"{name}{EXPLAIN}" / _VERSION, "cpu", name="triton")
    parity.measure(subject.network, asking(server), parity.probes(subject.record.clip, len(subject.record.classes))).require()
    network = open_graph(folder / name / _VERSION)
    return lambda probe: Answer(*network.look(probe.clip, probe.target))


TRITON = Kind(_write, _load, ("tritonclient", "onnx", "onnxscript", "onnxruntime"))
