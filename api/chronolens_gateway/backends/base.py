"""What the gateway and the runner need of whatever runs the models."""

from __future__ import annotations

from typing import Any, Protocol

from chronolens.pipeline import Engine
from chronolens.schemas import ModelInfo


class Backend(Protocol):
    """A place where models run: a local worker process now, model servers later. Methods block and may be called from any thread."""

    def engine(self) -> Engine:
        """Return the engine that the pipeline drives."""

    def models(self) -> list[ModelInfo]:
        """Return the served models.

        Raises:
            EngineUnavailableError: nothing answers and nothing is known from before.
        """

    def passes(self) -> list[dict[str, Any]]:
        """Return what the engine has counted since it started, see :meth:`chronolens.engine.Engine.passes`.

        Raises:
            EngineUnavailableError: nothing answers.
        """

    def healthy(self) -> bool:
        """Return whether it answers now."""

    def close(self) -> None:
        """Close all connections."""
