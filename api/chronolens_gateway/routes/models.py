"""What is served, and within which limits."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from chronolens.schemas import ModelInfo
from chronolens_gateway.errors import NotFoundError
from chronolens_gateway.openapi import refusals
from chronolens_gateway.service import ServiceHere

router = APIRouter(prefix="/v1", tags=["models"])


class ModelList(BaseModel):
    """The served models."""

    models: list[ModelInfo]


@router.get("/models", responses=refusals(503))
async def list_models(service: ServiceHere) -> ModelList:
    """Every served model."""
    return ModelList(models=await service.models())


@router.get("/models/{model}", responses=refusals(404, 503))
async def get_model(model: str, service: ServiceHere) -> ModelInfo:
    """One model: classes, clip specification, methods, layers, weights digest, licence."""
    for info in await service.models():
        if info.name == model:
            return info
    raise NotFoundError("no model of that name is served")


@router.get("/limits", responses=refusals())
async def limits(service: ServiceHere) -> dict[str, Any]:
    """Every limit of an upload and of its decoding; the ranges of options are in the OpenAPI document."""
    return service.limits.describe()
