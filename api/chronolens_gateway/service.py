"""What every route works with, made once for each application and handed to routes by dependency."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError

from chronolens.clips import DecodedClip
from chronolens.errors import ChronolensError
from chronolens.options import PredictionOptions
from chronolens.pipeline import predict
from chronolens.schemas import ModelInfo, PredictionResult
from chronolens.video.decode import decode_clip
from chronolens_gateway import runner
from chronolens_gateway.backends.base import Backend
from chronolens_gateway.errors import NotReadyError
from chronolens_gateway.jobs import Jobs
from chronolens_gateway.limits import Limits
from chronolens_gateway.metrics import Metrics
from chronolens_gateway.settings import Settings
from chronolens_gateway.storage import JobStorage

T = TypeVar("T")
_QUICK_THREADS = 32


@dataclass(frozen=True)
class Service:
    """The parts of one running application, from start-up to shut-down."""

    settings: Settings
    limits: Limits
    metrics: Metrics
    storage: JobStorage
    backend: Backend
    jobs: Jobs
    decoding: CapacityLimiter
    predicting: CapacityLimiter
    quick: CapacityLimiter
    stopping: Callable[[], bool]

    async def call(self, work: Callable[[], T]) -> T:
        """Run something short that blocks (database, small files) outside the event loop."""
        return await to_thread.run_sync(work, limiter=self.quick)

    async def models(self) -> list[ModelInfo]:
        """Return the served models; EngineUnavailableError while none is known."""
        return await self.call(self.backend.models)

    async def decode(self, path: Path, options: PredictionOptions, info: ModelInfo) -> tuple[DecodedClip, float]:
        """Return the frames that the model sees, decoded in the sandbox, and the seconds that took (waiting for a slot included)."""
        work = partial(
            decode_clip,
            path,
            info.clip.frames,
            rule=info.clip.sampling,
            interval=info.clip.interval,
            start_s=options.start_s,
            end_s=options.end_s,
            limits=self.limits.decode,
        )
        started = time.perf_counter()
        clip = await to_thread.run_sync(work, limiter=self.decoding)
        seconds = time.perf_counter() - started
        self.metrics.decode_seconds.observe(seconds)
        return clip, seconds

    async def predict(self, path: Path, clip_bytes: int, options: PredictionOptions, info: ModelInfo) -> PredictionResult:
        """Score an uploaded clip."""
        self.metrics.upload_bytes.observe(clip_bytes)
        clip, decode_s = await self.decode(path, options, info)
        waiting = time.perf_counter()

        def work() -> PredictionResult:
            timing = {"decode": decode_s, "queue": time.perf_counter() - waiting}
            engine = self.backend.engine(info, timeout_s=self.settings.predict_timeout_s)
            with self.metrics.predict_seconds.labels(info.name).time():
                return predict(engine, clip, options, info, timing=timing)

        return await to_thread.run_sync(work, limiter=self.predicting)

    async def parts(self) -> dict[str, bool]:
        """Return which parts of the service answer now."""
        found: dict[str, bool] = {}

        async def ask(name: str, check: Callable[[], bool]) -> None:
            try:
                found[name] = await self.call(check)
            except (ChronolensError, SQLAlchemyError, OSError):
                found[name] = False

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "engine", lambda: self.backend.healthy() and bool(self.backend.models()))
            group.start_soon(ask, "runner", lambda: runner.alive(self.settings))
            group.start_soon(ask, "database", self._database_answers)
        for name, answers in found.items():
            self.metrics.ready.labels(name).set(answers)
        return dict(sorted(found.items()))

    async def ask_engine(self) -> None:
        """Ask the engine for its figures; while it does not answer, the last ones stand."""
        self.metrics.breaker.labels(self.backend.name).set(self.backend.breaker.state != "closed")
        with suppress(ChronolensError):
            self.metrics.engine.passes = await self.call(self.backend.passes)
            self.metrics.engine.stats = await self.call(self.backend.stats)

    def _database_answers(self) -> bool:
        for status, count in self.jobs.waiting().items():
            self.metrics.jobs_waiting.labels(status).set(count)
        return True


def quick_limiter() -> CapacityLimiter:
    """Return the limiter of :meth:`Service.call`."""
    return CapacityLimiter(_QUICK_THREADS)


def _service(request: Request) -> Service:
    service: Service | None = getattr(request.app.state, "service", None)
    if service is None:
        raise NotReadyError("the service is starting")
    return service


ServiceHere = Annotated[Service, Depends(_service)]
