"""The torch-free side of :mod:`chronolens.worker`: the pipeline's engine, reached over a Unix socket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from chronolens import errors
from chronolens.clips import Frames
from chronolens.explain.words import Operator
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.schemas import ModelInfo
from chronolens.wire import MEDIA_TYPE, Arrays, pack, unpack


class WorkerClient:
    """One engine worker, as :class:`chronolens.pipeline.Engine`.

    Args:
        socket: path of the worker's Unix socket; it need not exist yet.
        timeout_s: longest wait for one answer. Requests are slices of a fraction of a second, or one step, but may queue behind others.

    Raises (every method):
        EngineUnavailableError: nobody listens, or the worker died while it answered.
        ChronolensError: the same class that the engine raised.
    """

    def __init__(self, socket: Path, *, timeout_s: float = 120.0) -> None:
        self._http = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://worker", timeout=timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def healthy(self) -> bool:
        """Return whether the worker answers."""
        try:
            return self._send("GET", "/healthz").status_code == httpx.codes.OK
        except errors.EngineUnavailableError:
            return False

    def models(self) -> list[ModelInfo]:
        """Return the models that the worker serves."""
        return [ModelInfo(**entry) for entry in self._send("GET", "/models").json()["models"]]

    def passes(self) -> list[dict[str, Any]]:
        """Return what the worker has spent since it started, see :meth:`chronolens.engine.Engine.passes`."""
        counted: list[dict[str, Any]] = self._send("GET", "/passes").json()["passes"]
        return counted

    def look(self, model: str, frames: Frames, *, target: int | None, gradcam: GradCamOptions | None) -> tuple[Arrays, dict[str, Any]]:
        """See :meth:`chronolens.pipeline.Engine.look`."""
        wanted = None if gradcam is None else gradcam.model_dump(mode="json")
        return self._call("look", frames, model=model, target=target, gradcam=wanted)

    def learn(
        self,
        model: str,
        frames: Frames,
        target: int,
        operator: Operator,
        options: MaskOptions,
        state: dict[str, Any] | None,
        *,
        max_steps: int,
        budget_s: float,
        known: Sequence[Sequence[Any]] = (),
    ) -> dict[str, Any]:
        """See :meth:`chronolens.pipeline.Engine.learn`."""
        limits = {"max_steps": max_steps, "budget_s": budget_s}
        facts: dict[str, Any] = {"operator": operator, "state": state, "known": list(known), **limits}
        return self._call("learn", frames, model=model, target=target, mask=options.model_dump(mode="json"), **facts)[1]

    def score(
        self,
        model: str,
        frames: Frames,
        target: int,
        masks: dict[Operator, list[float]],
        options: MaskOptions,
        known: Sequence[Sequence[Any]] = (),
        *,
        budget_s: float = 3600.0,
    ) -> dict[str, Any]:
        """See :meth:`chronolens.pipeline.Engine.score`."""
        facts: dict[str, Any] = {"masks": masks, "mask": options.model_dump(mode="json"), "known": list(known), "budget_s": budget_s}
        return self._call("score", frames, model=model, target=target, **facts)[1]

    def _call(self, operation: str, frames: Frames, **facts: Any) -> tuple[Arrays, dict[str, Any]]:
        return unpack(self._send("POST", f"/{operation}", pack({"frames": frames}, facts)).content)

    def _send(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        headers = {} if body is None else {"Content-Type": MEDIA_TYPE}
        try:
            response = self._http.request(method, path, content=body, headers=headers)
        except httpx.TransportError as error:
            raise errors.EngineUnavailableError("the process that runs the models does not answer") from error
        if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise _rebuilt(response.json())
        if response.status_code != httpx.codes.OK:
            raise errors.EngineUnavailableError("the process that runs the models failed on this request")
        return response


def _rebuilt(facts: dict[str, Any]) -> errors.ChronolensError:
    kind = getattr(errors, facts.pop("error"), errors.ChronolensError)
    detail = facts.pop("detail")
    error: errors.ChronolensError = kind(detail, **facts)
    return error
