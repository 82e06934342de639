"""Speak to a chronolens service from Python.

from chronolens.client import Client
result = Client("http://127.0.0.1:8000").explain("clip.mp4", model="i3d-synthetic")
print(result["target"]["label"], result["masks"]["freeze"]["segments"])
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from chronolens.errors import ChronolensError, EngineUnavailableError

FINAL = ("succeeded", "failed", "cancelled")
Answer = dict[str, Any]


class ServiceError(ChronolensError):
    """The service refused or the job failed; ``problem`` is the whole problem body (RFC 9457)."""

    def __init__(self, problem: Answer) -> None:
        super().__init__(str(problem.get("detail", "the service refused")), code=str(problem.get("code", "unknown")))
        self.problem = problem


class Client:
    """One service, over HTTP.

    Args:
        url: address of the service, such as ``http://127.0.0.1:8000``.
        timeout_s: longest wait for one answer (a prediction decodes the clip first).

    Raises (every method):
        ServiceError: the service refused, with its problem body.
        EngineUnavailableError: the service cannot be reached.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", *, timeout_s: float = 120.0) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Return whether the service can answer."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def models(self) -> list[Answer]:
        """Return the served models."""
        models: list[Answer] = self._send("GET", "/v1/models").json()["models"]
        return models

    def predict(self, clip: Path | str, **options: Any) -> Answer:
        """Return the prediction for a clip; ``options`` as in ``POST /v1/predictions`` (``model=...``, ``top_k=...``)."""
        answer: Answer = self._post("/v1/predictions", clip, options).json()
        return answer

    def submit(self, clip: Path | str, **options: Any) -> Answer:
        """Hand in a clip to explain and return the job at once; ``options`` as in ``POST /v1/explanations``."""
        job: Answer = self._post("/v1/explanations", clip, options).json()
        return job

    def job(self, job_id: str) -> Answer:
        """Return a job: state, progress and, when finished, result or error."""
        job: Answer = self._send("GET", f"/v1/explanations/{job_id}").json()
        return job

    def explain(
        self, clip: Path | str, *, on_progress: Callable[[Answer], None] | None = None, poll_s: float = 0.3, **options: Any
    ) -> Answer:
        """Explain a clip and wait for the result.

        Args:
            on_progress: called with the job after every look at it.
            poll_s: seconds between two looks.

        Raises:
            ServiceError: refused, failed or cancelled.
        """
        job = self.submit(clip, **options)
        while job["status"] not in FINAL:
            time.sleep(poll_s)
            job = self.job(job["id"])
            if on_progress is not None:
                on_progress(job)
        if job["status"] != "succeeded":
            raise ServiceError(job["error"] or {"detail": "the job was cancelled", "code": "cancelled"})
        result: Answer = job["result"]
        return result

    def download(self, artefact: Answer, folder: Path) -> Path:
        """Fetch one artefact of a result into a folder and return its path."""
        path = folder / Path(artefact["name"]).name
        path.write_bytes(self._send("GET", artefact["href"]).content)
        return path

    def delete(self, job_id: str) -> None:
        """Cancel a job and remove its data."""
        self._send("DELETE", f"/v1/explanations/{job_id}")

    def _post(self, path: str, clip: Path | str, options: Answer) -> httpx.Response:
        with Path(clip).open("rb") as file:
            parts = {"clip": ("clip", file, "application/octet-stream"), "options": (None, json.dumps(options), "application/json")}
            return self._send("POST", path, files=parts)

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise EngineUnavailableError("the service cannot be reached") from error
        if response.is_error:
            problem = "application/problem+json" in response.headers.get("content-type", "")
            raise ServiceError(response.json() if problem else {"detail": response.reason_phrase, "status": response.status_code})
        return response
