"""Triton's ways: how requests reach a model of its Python backend, where its metrics go, which device is its own.

Tensors come and go by DLPack. With numpy 2 the backend's own ``Tensor(name, array)`` comes back empty and ``as_numpy`` returns wrong bytes,
both silently; and it cannot read numpy's own DLPack capsules without an error message for each, so what goes out is a PyTorch tensor.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chronolens.answering import guarded
from chronolens.clips import ClipSpec
from chronolens.engine_wire import LANES, head_of
from chronolens.errors import ChronolensError, OptionsError, WeightsError
from chronolens.golden import check_golden, golden_frames
from chronolens.model_server.server import GOLDEN, ModelServer
from chronolens.models.onnx_network import GraphMap, OnnxNetwork
from chronolens.video.prepare import prepare

CALL, ANSWER = "call", "answer"
GRAPH = "model.onnx"
CLIP_FACTS = "clip.json"
"""Beside the graph: ``spec`` of its clips, the ``layer`` that it maps and the ``cells`` of that map."""
METRICS = {
    "chronolens_passes_total": ("Passes through networks", ("model", "purpose", "direction")),
    "chronolens_calls_total": ("Calls answered", ("model", "operation", "outcome")),
}


class ExplainModel:
    """One instance of ``MODEL-explain``: packed calls in, packed answers out.

    Args:
        args: of Triton: ``model_repository``, ``model_version``, ``model_instance_kind``, ``model_instance_device_id``, ...
        utils: the module ``triton_python_backend_utils``, which exists only inside a server.

    Raises:
        WeightsError: the model cannot be served, see :class:`ModelServer`.
    """

    def __init__(self, args: Mapping[str, str], utils: Any) -> None:
        _end_with_the_server()
        _read_python_path()
        self._utils = utils
        self._server = ModelServer(_folder(args), _device(args), name="triton")
        self._metrics = _Metrics(utils)
        self._report_passes()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one batch. Calls of a lane share passes, and the lanes are answered one after the other: no prediction waits for masks.

        Returns:
            A response a request; None for those that have been answered on the way.
        """
        lanes: dict[str, list[tuple[int, bytes]]] = {lane: [] for lane in LANES}
        responses: list[Any] = [None] * len(requests)
        for index, request in enumerate(requests):
            body = guarded(lambda request=request: self._body(request))  # type: ignore[misc]
            lanes[_lane(body)].append((index, body if isinstance(body, bytes) else b""))
        waiting = [lane for lane in lanes.values() if lane]
        for number, lane in enumerate(waiting):
            for (index, _), response in zip(lane, self._answered([body for _, body in lane]), strict=True):
                if number < len(waiting) - 1:
                    final = self._utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                    requests[index].get_response_sender().send(response, flags=final)
                else:
                    responses[index] = response
        self._report_passes()
        return responses

    def _body(self, request: Any) -> bytes:
        return np.from_dlpack(self._utils.get_input_tensor_by_name(request, CALL)).tobytes()

    def _answered(self, bodies: list[bytes]) -> list[Any]:
        responses = []
        for answer in self._server.answer(bodies):
            operation = "unknown" if answer.call is None else answer.call.operation
            outcome = "ok" if answer.error is None else answer.error.code
            self._metrics.add("chronolens_calls_total", 1, self._server.info.name, operation, outcome)
            packed = torch.frombuffer(bytearray(answer.body), dtype=torch.uint8)[None]
            responses.append(self._utils.InferenceResponse([self._utils.Tensor.from_dlpack(ANSWER, packed)]))
        return responses

    def _report_passes(self) -> None:
        for purpose, direction, count in self._server.new_passes():
            self._metrics.add("chronolens_passes_total", count, self._server.info.name, purpose, direction)


class OnnxModel:
    """One instance of ``MODEL`` where the server has no backend of its own for ONNX: the graph's inputs and outputs, row by row a clip.

    Args:
        args, utils: as for :class:`ExplainModel`.

    Raises:
        WeightsError: the graph or what lies beside it cannot be read, or it does not answer the golden clip as it did (``golden-clip``).
    """

    def __init__(self, args: Mapping[str, str], utils: Any) -> None:
        _end_with_the_server()
        self._utils = utils
        self._network = open_graph(_folder(args))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one batch in one run of the graph; a request with a wrong target is refused alone."""
        read = [guarded(lambda request=request: self._read(request)) for request in requests]  # type: ignore[misc]
        fine = [one for one in read if not isinstance(one, ChronolensError)]
        found = guarded(lambda: _explained(self._network, *map(torch.cat, zip(*fine, strict=True)))) if fine else {}
        parts = iter(_split(found, [len(clip) for clip, _ in fine]))
        return [self._response(one if isinstance(one, ChronolensError) else next(parts)) for one in read]

    def _read(self, request: Any) -> tuple[Tensor, Tensor]:
        clip, target = (
            torch.utils.dlpack.from_dlpack(self._utils.get_input_tensor_by_name(request, name)).clone() for name in ("clip", "target")
        )
        if not bool(((target >= -1) & (target < self._network.classes)).all()):
            raise OptionsError("the model has no such class", code="unknown-class", limit=self._network.classes - 1)
        return clip, target

    def _response(self, found: dict[str, Tensor] | ChronolensError) -> Any:
        if isinstance(found, ChronolensError):
            return self._utils.InferenceResponse([], error=self._utils.TritonError(found.detail))
        return self._utils.InferenceResponse([self._utils.Tensor.from_dlpack(name, values) for name, values in found.items()])


def open_graph(folder: Path) -> OnnxNetwork:
    """Return the network of a graph, once it has answered the golden clip.

    Raises:
        WeightsError: a file is missing or damaged, or (``golden-clip``) the scores are others than recorded.
    """
    try:
        facts, golden = (json.loads((folder / name).read_bytes()) for name in (CLIP_FACTS, GOLDEN))
        spec = ClipSpec(**facts["spec"])
        network = OnnxNetwork(folder / GRAPH, [GraphMap.from_json(one) for one in facts["maps"]])
        clip = torch.from_numpy(prepare(golden_frames(spec, int(golden["seed"])), spec))
        expected = [float(score) for score in golden["scores"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError("the folder of the graph does not tell what it has to answer to the golden clip", code="golden-clip") from error
    check_golden(torch.softmax(network(clip)[0].double(), dim=0).numpy(), expected)
    return network


class _Metrics:
    """Counters of this process, shown on the server's metrics port; a family lives only as long as somebody holds it."""

    def __init__(self, utils: Any) -> None:
        counter = utils.MetricFamily.COUNTER
        self._families = {name: utils.MetricFamily(name=name, description=told, kind=counter) for name, (told, _) in METRICS.items()}
        self._counters: dict[tuple[str, ...], Any] = {}

    def add(self, name: str, count: float, *labels: str) -> None:
        """Count; labels in the order of :data:`METRICS`."""
        key = (name, *labels)
        if key not in self._counters:
            self._counters[key] = self._families[name].Metric(labels=dict(zip(METRICS[name][1], labels, strict=True)))
        self._counters[key].increment(count)


def _end_with_the_server() -> None:
    """End this process when the server is gone: one in the middle of a batch would wait for it forever.

    The kernel's own signal for that is no help here: it comes when the *thread* of the server ends that started this process.
    """
    server = os.pidfd_open(os.getppid())

    def watch() -> None:
        select.select([server], [], [])
        os._exit(1)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()


def _read_python_path() -> None:
    """Find modules where ``PYTHONPATH`` says, such as those of own models: the interpreter that the server embeds does not read it."""
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path += [folder for folder in folders if folder and folder not in sys.path]


def _folder(args: Mapping[str, str]) -> Path:
    return Path(args["model_repository"], args["model_version"])


def _device(args: Mapping[str, str]) -> str:
    return f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" and torch.cuda.is_available() else "cpu"


def _lane(body: bytes | ChronolensError) -> str:
    """Return the lane of a call; what is none is refused at once."""
    if isinstance(body, ChronolensError):
        return LANES[0]
    head: Callable[[], str] = lambda: head_of(body).lane  # noqa: E731
    found = guarded(head)
    return found if isinstance(found, str) else LANES[0]


def _explained(network: OnnxNetwork, clip: Tensor, target: Tensor) -> dict[str, Tensor]:
    logits, maps = network.look(clip, target)
    explained = torch.where(target < 0, logits.argmax(dim=1), target)
    named = {network.output_of(layer): values for layer, values in maps.items()}
    return {"logits": logits, "scores": torch.softmax(logits, dim=1), "explained": explained, **named}


def _split(found: dict[str, Tensor] | ChronolensError, sizes: Sequence[int]) -> list[dict[str, Tensor] | ChronolensError]:
    """Return the rows of each request, or for each the same refusal."""
    if isinstance(found, ChronolensError):
        return [found for _ in sizes]
    rows = {name: torch.split(values, list(sizes)) for name, values in found.items()}
    return [{name: values[index].contiguous() for name, values in rows.items()} for index in range(len(sizes))]
