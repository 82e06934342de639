"""One clip in, its classes out, in the same response."""

from __future__ import annotations

import time

from anyio import to_thread
from fastapi import APIRouter, Request

from chronolens.options import PredictionOptions
from chronolens.pipeline import predict
from chronolens.schemas import PredictionResult
from chronolens_gateway.forms import CLIP, received_form
from chronolens_gateway.openapi import UPLOAD, refusals, upload_body
from chronolens_gateway.parameters import FIELDS, OPTIONS, find_model, read_options
from chronolens_gateway.service import ServiceHere

router = APIRouter(prefix="/v1/predictions", tags=["predictions"])
_PARTS = frozenset({CLIP, OPTIONS, *FIELDS})


@router.post("", responses=refusals(*UPLOAD), openapi_extra=upload_body("PredictionOptions", ("model", "top_k")))
async def create_prediction(request: Request, service: ServiceHere) -> PredictionResult:
    """Score one clip."""
    async with received_form(request, service.storage.uploads, _PARTS, service.limits) as form:
        options = read_options(PredictionOptions, form.texts, service.limits)
        info = find_model(await service.models(), options.model)
        service.metrics.upload_bytes.observe(form.clip_bytes)
        clip, decode_s = await service.decode(form.clip, options, info)
    waiting = time.perf_counter()

    def work() -> PredictionResult:
        timing = {"decode": decode_s, "queue": time.perf_counter() - waiting}
        with service.metrics.predict_seconds.labels(info.name).time():
            return predict(service.backend.engine(info, timeout_s=service.settings.predict_timeout_s), clip, options, info, timing=timing)

    return await to_thread.run_sync(work, limiter=service.predicting)
