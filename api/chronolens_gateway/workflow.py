"""One explanation as a durable workflow: every piece of work is a checkpoint, so a killed runner goes on where it stopped.

Results, progress and errors are files of the job's folder; the database holds the checkpoints only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from dbos import DBOS

from chronolens.errors import ChronolensError, DeadlineExceededError, EngineUnavailableError, OverloadedError
from chronolens.options import ExplanationOptions
from chronolens.pipeline import explain
from chronolens.schemas import ModelInfo, Problem, Progress
from chronolens.wire import unpack_clip
from chronolens_gateway import storage as names
from chronolens_gateway.backends.base import Backend
from chronolens_gateway.database import WORKFLOW
from chronolens_gateway.errors import AttemptsExhaustedError, ConflictError, problem_of
from chronolens_gateway.jobs import PREFIX, artefact_href
from chronolens_gateway.storage import JobRemovedError, JobStorage

MAX_ATTEMPTS = 3
_LOOK_S = 0.2
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
# Every restart of the service counts there, so it is only a backstop; MAX_ATTEMPTS counts starts that got nowhere.
_LIBRARY_ATTEMPTS = 100
T = TypeVar("T")
_log = logging.getLogger("chronolens_gateway.runner")


class JobFailedError(Exception):
    """Ends a workflow as failed; the problem is in the job's folder, its code is the text of this error."""


class StepFailedError(Exception):
    """A step ended with a problem, now or in the run before a restart."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["code"])
        self.problem = Problem.model_validate(problem)


@dataclass(frozen=True)
class Context:
    """What a job is run with: storage, backend, and how long to wait for a restarting engine."""

    storage: JobStorage
    backend: Backend
    patience_s: float


def register(context: Context) -> None:
    """Make the workflow known to the library, under the name that the gateway enqueues."""

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=_LIBRARY_ATTEMPTS)
    def explain_job(job_id: str) -> str:
        return _Run(context, job_id).run()


class _Run:
    """One execution of one job."""

    def __init__(self, context: Context, job_id: str) -> None:
        self._storage = context.storage
        self._backend = context.backend
        self._patience_s = context.patience_s
        self._id = job_id
        self._request: dict[str, Any] = {}
        self._attempts: dict[str, Any] = {}
        self._seq = 0

    def run(self) -> str:
        """Work the job to its end.

        Raises:
            JobFailedError: the job has failed; the workflow ends with an error.
        """
        try:
            return self._run()
        except JobRemovedError:
            return "removed"
        finally:
            if not self._storage.exists(self._id):  # files that were written while the owner removed the job
                self._storage.remove(self._id)

    def _run(self) -> str:
        request = self._storage.read(self._id, names.REQUEST)
        if request is None:
            return "removed"
        self._request = request
        if self._storage.read(self._id, names.RESULT) is None:
            try:
                self._begin()
                self._explain()
            except StepFailedError as error:
                self._fail(error.problem)
            except ChronolensError as error:
                self._fail(self._problem(error))
            except JobRemovedError:
                raise
            except Exception as error:  # a bug or a full disk: the job must still end, and the log must tell
                if not self._storage.exists(self._id):
                    raise JobRemovedError(self._id) from error
                _log.exception("job %s failed unexpectedly", self._id)
                self._fail(self._problem(error))
        self._storage.drop_clip(self._id)
        return "done"

    def _begin(self) -> None:
        """Count this start; refuse after three in a row that finished no step."""
        seen = self._storage.read(self._id, names.ATTEMPTS) or {"starts": 0, "idle": 0, "steps": 0, "steps_before": 0}
        now = datetime.now(UTC)
        idle = 1 if seen["steps"] > seen["steps_before"] else seen["idle"] + 1
        queue_s = (now - datetime.fromisoformat(self._request["created_at"])).total_seconds()
        self._attempts = {
            "started_at": now.isoformat(),
            "queue_s": max(queue_s, 0.0),
            **seen,
            "starts": seen["starts"] + 1,
            "idle": idle,
            "steps_before": seen["steps"],
        }
        self._storage.write(self._id, names.ATTEMPTS, self._attempts)
        if idle > MAX_ATTEMPTS:
            raise AttemptsExhaustedError("the process that worked on this job ended each time it tried", limit=MAX_ATTEMPTS)
        self._seq = int((self._storage.read(self._id, names.PROGRESS) or {"seq": 0})["seq"])

    def _explain(self) -> None:
        options = ExplanationOptions.model_validate(self._request["options"])
        info = ModelInfo.model_validate(self._request["model"])
        self._wait_for_engine()  # after a restart of the service it may come up later than this process
        self._check_weights(info)
        result = explain(
            self._backend.engine(info, retries=False),
            unpack_clip(self._storage.read_clip(self._id)),
            options,
            info,
            self._storage.files(self._id),
            step=self._step,
            report=self._report,
            href=lambda name: artefact_href(self._id, name),
            timing={"decode": self._request["decode_s"], "queue": self._attempts["queue_s"]},
        )
        self._end(names.RESULT, result.model_dump(mode="json"))

    def _end(self, name: str, document: dict[str, Any]) -> None:
        self._attempts["finished_at"] = datetime.now(UTC).isoformat()
        self._storage.write(self._id, names.ATTEMPTS, self._attempts)
        self._storage.write(self._id, name, document)

    def _check_weights(self, info: ModelInfo) -> None:
        """Refuse to go on with other weights than those the job was accepted with: the result would name the wrong ones."""
        served = {model.name: model.weights for model in self._patiently(self._backend.models)}
        if served.get(info.name) != info.weights:
            raise ConflictError("the weights of the model have changed since the job was accepted", code="weights-changed")

    def _step(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run one piece of work as a checkpointed step. Its errors are results too: the library would not give them back as they were."""

        def checked() -> dict[str, Any]:
            try:
                outcome = {"value": self._patiently(work)}
            except ChronolensError as error:
                outcome = {"problem": self._problem(error).model_dump(mode="json")}
            self._attempts["steps"] += 1
            self._storage.write(self._id, names.ATTEMPTS, self._attempts)
            return outcome

        outcome: dict[str, Any] = DBOS.run_step({"name": name}, checked)
        if "problem" in outcome:
            raise StepFailedError(outcome["problem"])
        value: dict[str, Any] = outcome["value"]
        return value

    def _patiently(self, work: Callable[[], T]) -> T:
        """Try up to three times; an engine that died is given time to come back between two tries.

        One that is full, or that nobody asks because it failed too often, has not been tried: the job waits while it has patience.
        """
        attempts, pause_s = 0, _FIRST_PAUSE_S
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return work()
            except (EngineUnavailableError, DeadlineExceededError) as error:
                tried = not isinstance(error, OverloadedError) and error.code != "circuit-open"
                attempts += tried
                if attempts >= MAX_ATTEMPTS or (not tried and time.monotonic() >= deadline):
                    raise
                _log.warning("job %s: %s, attempt %d", self._id, error.code, attempts)
            self._pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._wait_for_engine()

    def _wait_for_engine(self) -> None:
        deadline = time.monotonic() + self._patience_s
        while not self._backend.healthy() and time.monotonic() < deadline:
            self._pause(_LOOK_S)

    def _pause(self, seconds: float) -> None:
        """Wait, unless the owner removes the job meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self._storage.exists(self._id):
                raise JobRemovedError(self._id)
            time.sleep(_LOOK_S)

    def _report(self, progress: Progress) -> None:
        if not self._storage.exists(self._id):
            raise JobRemovedError(self._id)
        self._seq += 1
        self._storage.write(self._id, names.PROGRESS, {"seq": self._seq, "progress": progress.model_dump(mode="json")})

    def _problem(self, error: BaseException) -> Problem:
        return problem_of(error, instance=f"{PREFIX}/{self._id}", request_id=self._request["request_id"])

    def _fail(self, problem: Problem) -> None:
        self._end(names.PROBLEM, problem.model_dump(mode="json"))
        self._storage.drop_clip(self._id)
        raise JobFailedError(problem.code)
