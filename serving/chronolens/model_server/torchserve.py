"""TorchServe's ways: how requests reach a worker, where its metrics and its log go, which device is its own."""

from __future__ import annotations

import ctypes
import json
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from chronolens.answering import guarded
from chronolens.errors import ChronolensError, OptionsError
from chronolens.model_server.raw_clip import RawClip
from chronolens.model_server.server import Inquiry, ModelServer, Packed, Reply, is_packed

BODY, CLIP, OPTIONS = "body", "clip", "options"
METRICS = {
    "chronolens_passes_total": ("model", "purpose", "direction"),
    "chronolens_calls_total": ("model", "operation", "outcome"),
    "chronolens_call_seconds": ("model", "operation"),
    "chronolens_batch_calls": ("model",),
}
"""Names and labels, as declared in the metrics file that the server is started with."""
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger("chronolens.torchserve")


class TorchServeWorker:
    """One worker process of TorchServe.

    Args:
        properties: of TorchServe's context: ``model_dir``, ``gpu_id`` (None without a GPU), ...

    Raises:
        WeightsError: the archive's model cannot be served, see :class:`ModelServer`.
    """

    def __init__(self, properties: Mapping[str, Any]) -> None:
        # A worker in the middle of a long batch would not notice that the server has gone, and go on for nobody.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        started = time.perf_counter()
        self._server = ModelServer(Path(properties["model_dir"]), _device(properties.get("gpu_id")), name="torchserve")
        facts = {"model": self._server.info.name, "device": str(self._server.engine.device), "seconds": time.perf_counter() - started}
        _log.info(_line("ready", facts))

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer one batch: statuses, media types and metrics go into the context, bodies come back in order."""
        started = time.perf_counter()
        ids = [context.get_request_id(index) or "" for index in range(len(data))]
        inquiries = [_inquiry(parts, context.get_request_header(index, "explain")) for index, parts in enumerate(data)]
        replies = self._server.reply(inquiries, ids)
        for index, reply in enumerate(replies):
            context.set_response_status(reply.status, "", index)
            context.set_response_content_type(index, reply.media_type)
        self._report(ids, replies, time.perf_counter() - started, context.metrics)
        return [reply.body for reply in replies]

    def _report(self, ids: Sequence[str], replies: Sequence[Reply], seconds: float, metrics: Any) -> None:
        model = self._server.info.name
        declared = {metric.metric_name: metric for kind in metrics.cache.values() for metric in kind.values()}

        def add(name: str, value: float, *labels: str) -> None:
            if name in declared:  # a server that was started with another metrics file counts without ours
                declared[name].add_or_update(value, list(labels))

        for purpose, direction, count in self._server.new_passes():
            add("chronolens_passes_total", count, model, purpose, direction)
        for reply in replies:
            add("chronolens_calls_total", 1, model, reply.operation, reply.outcome)
            add("chronolens_call_seconds", seconds, model, reply.operation)
        add("chronolens_batch_calls", len(replies), model)
        calls = [
            {"id": one, "operation": reply.operation, "outcome": reply.outcome, "status": reply.status}
            for one, reply in zip(ids, replies, strict=True)
        ]
        _log.info(_line("batch", {"model": model, "seconds": round(seconds, 6), "calls": calls}))


def _line(event: str, facts: dict[str, Any]) -> str:
    """Return one line of the log, which the log configuration of the server lets through as it is because it begins with the event."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"event": event, **facts, "level": "info", "process": "torchserve", "timestamp": now})


def _device(gpu: int | None) -> str:
    return "cpu" if gpu is None or not torch.cuda.is_available() else f"cuda:{gpu}"


def _inquiry(parts: Mapping[str, Any], explain: Any) -> Inquiry:
    """Read one request of a batch.

    Args:
        parts: name to value: ``body``, or the parts of a form.
        explain: value of the header by which TorchServe tells ``/explanations`` from ``/predictions``, for each request its own.
    """
    found: Inquiry | ChronolensError = guarded(lambda: _read(parts, explain == "True"))
    return found


def _read(parts: Mapping[str, Any], explain: bool) -> Packed | RawClip:
    if parts.keys() == {BODY}:
        body = _bytes(parts[BODY])
        return Packed(body) if is_packed(body) else RawClip(body, None, explain)
    if CLIP not in parts:
        raise OptionsError("send the clip as the body, or as the part clip of a form", code="missing-part")
    if not parts.keys() <= {CLIP, OPTIONS}:
        raise OptionsError("parts may be named clip and options", code="unknown-part")
    return RawClip(_bytes(parts[CLIP]), _bytes(parts[OPTIONS]) if OPTIONS in parts else None, explain)


def _bytes(value: Any) -> bytes:
    """Return a part as it was sent; TorchServe makes text of text and values of JSON unless it is told not to."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")
