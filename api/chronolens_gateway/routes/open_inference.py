"""Predictions for clients of KServe and Triton: the Open Inference Protocol, version 2."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from chronolens import __version__
from chronolens.errors import OptionsError
from chronolens.options import PredictionOptions
from chronolens.schemas import ModelInfo
from chronolens_gateway.errors import NotFoundError, NotReadyError
from chronolens_gateway.open_inference import answer, metadata, received_inference
from chronolens_gateway.openapi import UPLOAD, refusals
from chronolens_gateway.parameters import checked
from chronolens_gateway.service import Service, ServiceHere

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
_ANY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("", responses=refusals())
async def server() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "chronolens", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live", responses=refusals())
async def live() -> dict[str, bool]:
    """The process is alive."""
    return {"live": True}


@router.get("/health/ready", responses=refusals(503))
async def ready(service: ServiceHere) -> dict[str, bool]:
    """Everything needed for an answer is there."""
    missing = [name for name, answers in (await service.parts()).items() if not answers]
    if missing:
        raise NotReadyError(f"not ready: {', '.join(missing)}")
    return {"ready": True}


@router.get("/models/{model}/versions/1", responses=refusals(404, 503), include_in_schema=False)
@router.get("/models/{model}", responses=refusals(404, 503))
async def model_metadata(model: str, service: ServiceHere) -> dict[str, Any]:
    """Inputs and outputs of a model."""
    return metadata(await _model(service, model))


@router.get("/models/{model}/versions/1/ready", responses=refusals(404, 503), include_in_schema=False)
@router.get("/models/{model}/ready", responses=refusals(404, 503))
async def model_ready(model: str, service: ServiceHere) -> dict[str, Any]:
    """The model can answer."""
    info = await _model(service, model)
    if info.state != "ready" or not await service.call(service.backend.healthy):
        raise NotReadyError("the model cannot answer now")
    return {"name": info.name, "ready": True}


@router.post("/models/{model}/versions/1/infer", response_class=Response, include_in_schema=False)
@router.post("/models/{model}/infer", response_class=Response, responses=refusals(404, 504, *UPLOAD), openapi_extra=_ANY_BODY)
async def infer(model: str, request: Request, service: ServiceHere) -> Response:
    """Score one clip."""
    info = await _model(service, model)
    async with received_inference(request, service.storage.uploads, service.limits) as inference:
        if "model" in inference.options:
            raise OptionsError("the model is named in the path", code="unknown-field", pointer="/parameters/model")
        options = checked(PredictionOptions, {**inference.options, "model": info.name})
        everything = options.model_copy(update={"top_k": len(info.classes)})
        result = await service.predict(inference.clip, inference.clip_bytes, everything, info)
    body, headers = answer(inference, info, result, options.top_k)
    return Response(body, headers=headers)


async def _model(service: Service, name: str) -> ModelInfo:
    for info in await service.models():
        if info.name == name:
            return info
    raise NotFoundError("no model of that name is served")
