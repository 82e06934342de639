"""One clip in, its classes out, in the same response."""

from __future__ import annotations

from fastapi import APIRouter, Request

from chronolens.options import PredictionOptions
from chronolens.schemas import PredictionResult
from chronolens_gateway.forms import CLIP, received_form
from chronolens_gateway.openapi import UPLOAD, refusals, upload_body
from chronolens_gateway.parameters import FIELDS, OPTIONS, find_model, read_options
from chronolens_gateway.service import ServiceHere

router = APIRouter(prefix="/v1/predictions", tags=["predictions"])
_PARTS = frozenset({CLIP, OPTIONS, *FIELDS})


@router.post("", responses=refusals(504, *UPLOAD), openapi_extra=upload_body("PredictionOptions", ("model", "top_k")))
async def create_prediction(request: Request, service: ServiceHere) -> PredictionResult:
    """Score one clip."""
    async with received_form(request, service.storage.uploads, _PARTS, service.limits) as form:
        options = read_options(PredictionOptions, form.texts, service.limits)
        info = find_model(await service.models(), options.model)
        return await service.predict(form.clip, form.clip_bytes, options, info)
