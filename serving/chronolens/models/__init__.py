"""The networks: architectures by name, and trained weights by record."""

from chronolens.models.registry import build_model, list_models

__all__ = ["build_model", "list_models"]
