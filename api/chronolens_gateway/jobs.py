"""Explanation jobs as callers see them: enqueue, look at, list, cancel. Status comes from the database, everything else from storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dbos import DBOSClient, WorkflowStatus

from chronolens.clips import DecodedClip
from chronolens.options import ExplanationOptions
from chronolens.schemas import ExplanationResult, Job, JobPage, ModelInfo, Problem, Progress, Status
from chronolens.wire import pack_clip
from chronolens_gateway import storage as names
from chronolens_gateway.database import APPLICATION_VERSION, QUEUE, WORKFLOW
from chronolens_gateway.errors import AttemptsExhaustedError, GoneError, NotFoundError, problem_of
from chronolens_gateway.storage import JobStorage, is_job_id, new_job_id

FINAL: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
PREFIX = "/v1/explanations"
_STATUS: dict[str, Status] = {
    "DELAYED": "queued",
    "ENQUEUED": "queued",
    "PENDING": "running",
    "SUCCESS": "succeeded",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "cancelled",
}
_CHUNK = 100


@dataclass(frozen=True)
class Snapshot:
    """What the event stream needs to know of a job: its status, and the last progress with its number."""

    status: Status
    seq: int
    progress: Progress | None


class Jobs:
    """The jobs of one service. Methods block; call them outside the event loop."""

    def __init__(self, client: DBOSClient, storage: JobStorage) -> None:
        self._client = client
        self.storage = storage

    def submit(self, clip: DecodedClip, options: ExplanationOptions, info: ModelInfo, *, decode_s: float, request_id: str) -> str:
        """Store a checked request and enqueue it; return the job's id."""
        job_id = new_job_id()
        request = {
            "options": options.model_dump(mode="json"),
            "model": info.model_dump(mode="json"),
            "created_at": datetime.now(UTC).isoformat(),
            "decode_s": decode_s,
            "request_id": request_id,
        }
        progress = {"seq": 1, "progress": Progress(phase="decode", done=1, total=1).model_dump()}
        self.storage.create(job_id, request, pack_clip(clip), progress)
        try:
            self._client.enqueue(
                {
                    "workflow_name": WORKFLOW,
                    "queue_name": QUEUE,
                    "workflow_id": job_id,
                    "workflow_id_reuse_policy": "reject",
                    "app_version": APPLICATION_VERSION,
                },
                job_id,
            )
        except BaseException:
            self.storage.remove(job_id)
            raise
        return job_id

    def get(self, job_id: str) -> Job:
        """Return a job with its result.

        Raises:
            NotFoundError: there never was such a job.
            GoneError: it has been removed.
        """
        return self._view(self._row(job_id), result=True)

    def snapshot(self, job_id: str) -> Snapshot:
        """Return how far a job is; raises as :meth:`get`."""
        row = self._row(job_id)
        seq, progress = self._progress(job_id)
        return Snapshot(_STATUS[row.status], seq, progress)

    def page(self, *, limit: int, before: str | None, status: Status | None) -> JobPage:
        """Return the newest jobs, older than the job ``before``, without their results."""
        found: list[Job] = []
        for row in self._rows(before):
            if status is None or _STATUS[row.status] == status:
                found.append(self._view(row, result=False))
            if len(found) > limit:
                break
        more = len(found) > limit
        return JobPage(jobs=found[:limit], next_cursor=found[limit - 1].id if more else None)

    def remove(self, job_id: str) -> None:
        """Cancel a job and remove its data; raises as :meth:`get`."""
        self._row(job_id)
        self._client.cancel_workflow(job_id)
        self.storage.remove(job_id)

    def waiting(self) -> dict[str, int]:
        """Return how many jobs are queued and how many run."""
        rows = self._client.list_workflows(name=WORKFLOW, status=["ENQUEUED", "PENDING"], load_input=False, load_output=False)
        running = sum(row.status == "PENDING" for row in rows)
        return {"queued": len(rows) - running, "running": running}

    def remove_orphans(self) -> None:
        """Remove job folders that no row belongs to: the gateway was killed between storing and enqueueing. Only at the start."""
        ids = self.storage.ids()
        while chunk := [job_id for _, job_id in zip(range(_CHUNK), ids, strict=False)]:
            rows = self._client.list_workflows(workflow_ids=chunk, load_input=False, load_output=False)
            for job_id in set(chunk) - {row.workflow_id for row in rows}:
                self.storage.remove(job_id)

    def close(self) -> None:
        """Close the database connections."""
        self._client.destroy()

    def _row(self, job_id: str) -> WorkflowStatus:
        rows = []
        if is_job_id(job_id):
            rows = self._client.list_workflows(workflow_ids=[job_id], load_input=False, load_output=False)
        if not rows:
            raise NotFoundError("there is no job of that id")
        if not self.storage.exists(job_id):
            raise GoneError("the job's data has been removed")
        return rows[0]

    def _rows(self, before: str | None) -> Iterator[WorkflowStatus]:
        ids = self.storage.ids(before)
        while chunk := [job_id for _, job_id in zip(range(_CHUNK), ids, strict=False)]:
            rows = self._client.list_workflows(workflow_ids=chunk, load_input=False, load_output=False)
            yield from sorted(rows, key=lambda row: row.workflow_id, reverse=True)

    def _progress(self, job_id: str) -> tuple[int, Progress | None]:
        document = self.storage.read(job_id, names.PROGRESS)
        if document is None:
            return 0, None
        return int(document["seq"]), Progress(**document["progress"])

    def _view(self, row: WorkflowStatus, *, result: bool) -> Job:
        job_id, status = row.workflow_id, _STATUS[row.status]
        request = self.storage.read(job_id, names.REQUEST) or {}
        attempts = self.storage.read(job_id, names.ATTEMPTS) or {}
        return Job(
            id=job_id,
            status=status,
            created_at=request.get("created_at") or _iso(row.created_at) or "",
            started_at=attempts.get("started_at"),
            finished_at=attempts.get("finished_at") or _iso(row.completed_at) if status in FINAL else None,
            attempts=int(attempts.get("starts", 0)),
            progress=self._progress(job_id)[1],
            links=_links(job_id),
            result=self._result(job_id) if result and status == "succeeded" else None,
            error=self._error(row, request) if status == "failed" else None,
        )

    def _result(self, job_id: str) -> ExplanationResult | None:
        document = self.storage.read(job_id, names.RESULT)
        return None if document is None else ExplanationResult.model_validate(document)

    def _error(self, row: WorkflowStatus, request: dict[str, Any]) -> Problem:
        document = self.storage.read(row.workflow_id, names.PROBLEM)
        if document is not None:
            return Problem.model_validate(document)
        # The library itself ended the job; it leaves no text that could be shown.
        error: Exception = RuntimeError("the workflow could not be started")
        if row.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
            error = AttemptsExhaustedError("the job was started too often without an end")
        return problem_of(error, instance=f"{PREFIX}/{row.workflow_id}", request_id=str(request.get("request_id", "")))


def artefact_href(job_id: str, name: str) -> str:
    """Return the link of an artefact."""
    return f"{PREFIX}/{job_id}/artefacts/{name}"


def _links(job_id: str) -> dict[str, str]:
    return {"self": f"{PREFIX}/{job_id}", "events": f"{PREFIX}/{job_id}/events"}


def _iso(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
