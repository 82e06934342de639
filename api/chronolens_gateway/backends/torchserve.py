"""TorchServe of this machine as an engine, see :mod:`chronolens_gateway.servers.torchserve`, which starts it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from chronolens.engine_wire import Call, unpack_answer
from chronolens.errors import (
    ChronolensError,
    DeadlineExceededError,
    EngineCrashedError,
    EngineUnavailableError,
    OptionsError,
    OverloadedError,
    UnknownModelError,
)
from chronolens.wire import MEDIA_TYPE, facts_of
from chronolens_gateway.servers.torchserve import ADDRESSES, KEYS

_CONNECT_S = 2.0
_PROBE_S = 2.0
_PASSES = "chronolens_passes_total"
_LABELS = ("model", "purpose", "direction")
_ATTEMPTS = 4


class TorchServeTransport:
    """The way to one TorchServe, as :class:`chronolens.engine_client.Transport`.

    Args:
        folder: its run folder, where addresses and keys are; the server may come later, go, and come back under other addresses.
        models: that it must serve; those that its launcher announced when None.
        http: what carries the requests; sockets when None.
    """

    name = "torchserve"

    def __init__(self, folder: Path, models: Sequence[str] | None = None, *, http: httpx.BaseTransport | None = None) -> None:
        self._folder = folder
        self._models = None if models is None else list(models)
        self._http = httpx.Client(trust_env=False, transport=http)
        self._renewing = threading.Lock()

    def send(self, call: Call, body: bytes, timeout_s: float) -> bytes:
        """See :meth:`chronolens.engine_client.Transport.send`.

        Raises:
            UnknownModelError: TorchServe has no such model.
        """
        path = f"/{'predictions' if call.lane == 'predict' else 'explanations'}/{call.model}"
        answer = self._ask("POST", "inference", path, timeout_s, body)
        if _is_ours(answer):
            return answer.content
        raise _failure(answer)

    def sources(self) -> list[str]:
        """Return the names to ask ``describe`` of, one by one: TorchServe keeps each model in a process of its own.

        Raises:
            EngineUnavailableError: it has never been started.
        """
        return [str(name) for name in self._facts(ADDRESSES)["models"]] if self._models is None else list(self._models)

    def passes(self) -> list[dict[str, Any]]:
        """Return what the workers have counted since the server started, from its metrics."""
        answer = self._ask("GET", "metrics", "/metrics", _PROBE_S)
        if answer.status_code != httpx.codes.OK:
            raise _failure(answer)
        samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
        counted = [sample for sample in samples if sample.name == _PASSES]
        return [{**{name: sample.labels[name] for name in _LABELS}, "passes": int(sample.value)} for sample in counted]

    def stats(self) -> dict[str, Any]:
        """Return nothing: TorchServe has metrics of its own."""
        return {}

    def healthy(self) -> bool:
        """Return whether every model answers now; the server's own word for it holds even when no worker runs."""
        try:
            for model in self.sources():
                call = Call("describe", model)
                unpack_answer(call.id, self.send(call, call.pack(), _PROBE_S))
        except ChronolensError:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, method: str, port: str, path: str, timeout_s: float, body: bytes = b"") -> httpx.Response:
        """Return the answer to one request, once its key was taken."""
        ends_at = time.monotonic() + timeout_s
        for _ in range(_ATTEMPTS):
            key = self._facts(KEYS)["inference"]["key"]
            answer = self._once(method, self._facts(ADDRESSES)[port] + path, key, ends_at, body)
            if not _key_refused(answer):
                return answer
            self._renew(key, ends_at)
        raise EngineUnavailableError("TorchServe takes none of the keys that it wrote")

    def _once(self, method: str, url: str, key: str, ends_at: float, body: bytes = b"") -> httpx.Response:
        timeout = httpx.Timeout(max(0.001, ends_at - time.monotonic()), connect=_CONNECT_S)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": MEDIA_TYPE}
        try:
            return self._http.request(method, url, content=body, headers=headers, timeout=timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise EngineUnavailableError("TorchServe cannot be reached") from error
        except httpx.TimeoutException as error:
            raise DeadlineExceededError("TorchServe did not answer in time") from error
        except httpx.TransportError as error:
            raise EngineCrashedError("TorchServe ended while it held the request") from error

    def _renew(self, refused: str, ends_at: float) -> None:
        """See to it that the key file holds another key than the one refused: keys expire, and any process may have renewed them."""
        with self._renewing:
            keys = self._facts(KEYS)
            if keys["inference"]["key"] == refused:
                self._once("GET", self._facts(ADDRESSES)["management"] + "/token?type=inference", keys["API"]["key"], ends_at)

    def _facts(self, name: str) -> Any:
        """Return a file of the run folder; TorchServe rewrites its keys in place, so that for a moment there are none."""
        for pause in (0.02, 0.1, 0.0):
            try:
                return json.loads((self._folder / name).read_bytes())
            except FileNotFoundError:
                break
            except ValueError:
                time.sleep(pause)
        raise EngineUnavailableError("TorchServe has not started yet")


def _is_ours(answer: httpx.Response) -> bool:
    if answer.headers.get("content-type") != MEDIA_TYPE:
        return False
    try:
        facts_of(answer.content)
    except OptionsError:
        return False
    return True


def _key_refused(answer: httpx.Response) -> bool:
    return answer.status_code == httpx.codes.BAD_REQUEST and "InvalidKeyException" in answer.text


def _failure(answer: httpx.Response) -> ChronolensError:
    """Return the error behind an answer that is TorchServe's own; none of its text is shown to anybody."""
    try:
        said = json.loads(answer.content)
        kind, message = str(said.get("type")), str(said.get("message"))
    except (ValueError, AttributeError):
        kind = message = ""
    if answer.status_code == httpx.codes.NOT_FOUND and kind == "ModelNotFoundException":
        return UnknownModelError("no model of that name is served", pointer="/model")
    if "Worker died" in message:
        return EngineCrashedError("the worker died while it held the request")
    if kind == "ServiceUnavailableException":  # said of a full queue too
        return OverloadedError("TorchServe takes no more requests for this model now")
    return EngineUnavailableError("TorchServe could not answer")
