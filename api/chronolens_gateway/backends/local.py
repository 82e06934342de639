"""The way to the worker pool of this machine: HTTP over a Unix socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from chronolens.engine_wire import Call
from chronolens.errors import DeadlineExceededError, EngineUnavailableError
from chronolens.wire import MEDIA_TYPE

_PROBE_S = 2.0
_GRACE_S = 1.0
"""The pool itself answers that a call came too late; this is for one that does not answer at all."""


class LocalTransport:
    """The worker pool, as :class:`chronolens.engine_client.Transport`.

    Args:
        socket: path of the pool's Unix socket; the pool may come later, go, and come back.
        name: ``local``, or ``onnx`` when ONNX Runtime computes the networks.
    """

    def __init__(self, socket: Path, name: str = "local") -> None:
        self.name = name
        self._socket = socket
        self._http = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://pool")

    def send(self, call: Call, body: bytes, timeout_s: float) -> bytes:
        """See :meth:`chronolens.engine_client.Transport.send`."""
        return self._request("POST", "/call", timeout_s + _GRACE_S, body).content

    def sources(self) -> list[str]:
        """See :meth:`chronolens.engine_client.Transport.sources`."""
        return [""]

    def passes(self) -> list[dict[str, Any]]:
        """See :meth:`chronolens_gateway.backends.base.ServerTransport.passes`."""
        counted: list[dict[str, Any]] = self.stats()["passes"]
        return counted

    def stats(self) -> dict[str, Any]:
        """Return all figures of the pool, see :meth:`chronolens.pool.pool.Pool.stats`."""
        found: dict[str, Any] = self._request("GET", "/stats", _PROBE_S).json()
        return found

    def healthy(self) -> bool:
        """See :meth:`chronolens_gateway.backends.base.ServerTransport.healthy`."""
        try:
            return bool(self._request("GET", "/healthz", _PROBE_S).json()["status"] == "ok")
        except (EngineUnavailableError, DeadlineExceededError):
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _request(self, method: str, path: str, timeout_s: float, body: bytes | None = None) -> httpx.Response:
        if not self._socket.exists():
            raise EngineUnavailableError("the process that runs the models has not started yet")
        headers = {} if body is None else {"Content-Type": MEDIA_TYPE}
        try:
            response = self._http.request(method, path, content=body, headers=headers, timeout=timeout_s)
        except httpx.TimeoutException as error:
            raise DeadlineExceededError("the models did not answer in time") from error
        except httpx.TransportError as error:
            raise EngineUnavailableError("the process that runs the models does not answer") from error
        if response.status_code not in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):
            raise EngineUnavailableError("the process that runs the models failed on this request")
        return response
