"""The two protocols of a Triton server. Both carry the same; tritonclient writes and reads the messages.

Over HTTP the messages travel by httpx: tritonclient's own connections are gevent's, which must not leave the thread that opened them.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import httpx
import numpy as np

from chronolens.errors import ChronolensError, EngineUnavailableError

CALL, ANSWER = "call", "answer"
_ASK_S = 5.0
_LOAD_S = 120.0
KEY = "chronolens-key"
"""Header with the key of a server that restricts its protocols; over gRPC the server expects its own prefix."""
_GRPC_KEY = f"triton-grpc-protocol-{KEY}"
_LENGTH = "Inference-Header-Content-Length"


class RefusedError(Exception):
    """The server answered with an error; ``args`` is its message."""


class BrokenError(Exception):
    """The connection was lost while a request was under way."""


class UnreachableError(Exception):
    """Nobody listens."""


class LateError(Exception):
    """No answer in time."""


class Wire(Protocol):
    """What a protocol has to offer. Methods may be called from any thread.

    Raises (every method):
        RefusedError, BrokenError, UnreachableError, LateError.
    """

    def infer(self, model: str, body: bytes, priority: int, timeout_s: float) -> bytes:
        """Return the answer of a model to a packed call; ``timeout_s`` limits the time in the server's queue, too."""

    def index(self) -> dict[str, str]:
        """Return the state of each model of the repository: ``READY``, ``LOADING``, ``UNLOADING``, ``UNAVAILABLE`` or nothing."""

    def load(self, model: str) -> None:
        """Load a model and wait until it is there."""

    def unload(self, model: str) -> None:
        """Begin to unload a model."""

    def close(self) -> None:
        """Close the connections."""


class HttpWire:
    """HTTP: see :class:`Wire`.

    Args:
        address: ``host:port`` or ``unix:PATH``.
        key: see :data:`KEY`.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self._codec = _client("http")
        self._http = http_client(address, key)

    def infer(self, model: str, body: bytes, priority: int, timeout_s: float) -> bytes:
        """See :meth:`Wire.infer`."""
        server = self._codec.InferenceServerClient
        asked = {"outputs": [self._codec.InferRequestedOutput(ANSWER)], "priority": priority, "timeout": _microseconds(timeout_s)}
        content, length = server.generate_request_body(_inputs(self._codec, body), **asked)
        headers = {} if length is None else {_LENGTH: str(length)}
        response = self._ask("POST", f"/v2/models/{model}/infer", content=content, headers=headers, timeout=timeout_s)
        header = response.headers.get(_LENGTH)
        return _bytes(server.parse_response_body(response.content, header_length=None if header is None else int(header)))

    def index(self) -> dict[str, str]:
        """See :meth:`Wire.index`."""
        return {entry["name"]: entry.get("state", "") for entry in self._ask("POST", "/v2/repository/index", json={}).json()}

    def load(self, model: str) -> None:
        """See :meth:`Wire.load`."""
        self._ask("POST", f"/v2/repository/models/{model}/load", json={}, timeout=_LOAD_S)

    def unload(self, model: str) -> None:
        """See :meth:`Wire.unload`."""
        self._ask("POST", f"/v2/repository/models/{model}/unload", json={})

    def close(self) -> None:
        """See :meth:`Wire.close`."""
        self._http.close()

    def _ask(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **rest)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UnreachableError from error
        except httpx.TimeoutException as error:
            raise LateError from error
        except httpx.TransportError as error:
            raise BrokenError from error
        if response.status_code != httpx.codes.OK:
            raise RefusedError(_message(response))
        return response


class GrpcWire:
    """gRPC: see :class:`Wire`.

    Args:
        address: ``host:port`` or ``unix:PATH``.
        key: see :data:`KEY`.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self._codec = _client("grpc")
        self._grpc = self._codec.InferenceServerClient(address)
        self._headers = {} if key is None else {_GRPC_KEY: key}

    def infer(self, model: str, body: bytes, priority: int, timeout_s: float) -> bytes:
        """See :meth:`Wire.infer`."""
        outputs = [self._codec.InferRequestedOutput(ANSWER)]
        limits = {"priority": priority, "timeout": _microseconds(timeout_s), "client_timeout": timeout_s}
        return _bytes(self._ask("infer", model, _inputs(self._codec, body), outputs=outputs, **limits))

    def index(self) -> dict[str, str]:
        """See :meth:`Wire.index`."""
        found = self._ask("get_model_repository_index", client_timeout=_ASK_S)
        return {entry.name: entry.state for entry in found.models}

    def load(self, model: str) -> None:
        """See :meth:`Wire.load`."""
        self._ask("load_model", model, client_timeout=_LOAD_S)

    def unload(self, model: str) -> None:
        """See :meth:`Wire.unload`."""
        self._ask("unload_model", model, client_timeout=_ASK_S)

    def close(self) -> None:
        """See :meth:`Wire.close`."""
        self._grpc.close()

    def _ask(self, method: str, *arguments: Any, **rest: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return getattr(self._grpc, method)(*arguments, headers=self._headers, **rest)
        except InferenceServerException as error:
            message, status = error.message() or "", error.status()
            if status == "StatusCode.DEADLINE_EXCEEDED":
                raise LateError from error
            # The server's own refusals come with this status as well; those of the connection begin with words of gRPC's.
            if status == "StatusCode.UNAVAILABLE" and message.startswith("failed to connect"):
                raise UnreachableError from error
            if status in ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED") and not message.startswith(
                ("[", "This protocol is restricted")
            ):
                raise BrokenError from error
            raise RefusedError(message) from error


def open_wire(protocol: str, address: str, key: str | None = None) -> Wire:
    """Return the wire of a protocol, ``http`` or ``grpc``."""
    return HttpWire(address, key) if protocol == "http" else GrpcWire(address, key)


def http_client(address: str, key: str | None = None) -> httpx.Client:
    """Return a client for paths of the server at ``host:port`` or ``unix:PATH``."""
    path = address.removeprefix("unix:")
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
    transport = httpx.HTTPTransport(uds=None if path == address else path, limits=limits, trust_env=False)
    headers = {} if key is None else {KEY: key}
    base = f"http://{address if path == address else 'triton'}"
    return httpx.Client(base_url=base, headers=headers, transport=transport, timeout=_ASK_S, trust_env=False)


def _client(protocol: str) -> Any:
    try:
        if protocol == "http":
            import tritonclient.http as found
        else:
            import tritonclient.grpc as found
    except ImportError as error:
        raise ChronolensError(f"the client of Triton is not installed: pip install chronolens[triton] ({error.name})") from None
    return found


def _inputs(codec: Any, body: bytes) -> list[Any]:
    tensor = codec.InferInput(CALL, [1, len(body)], "UINT8")
    tensor.set_data_from_numpy(np.frombuffer(body, np.uint8)[None])
    return [tensor]


def _bytes(result: Any) -> bytes:
    found = result.as_numpy(ANSWER)
    if not isinstance(found, np.ndarray):
        raise EngineUnavailableError("the engine answered nonsense: there is no answer in it", code="engine-garbage")
    return found.tobytes()


def _microseconds(seconds: float) -> int:
    return max(1, int(seconds * 1e6))


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return response.text[:200]
