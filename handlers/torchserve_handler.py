"""TorchServe's way in: one plain class, loaded by its base name from a model archive.

TorchServe takes the only class of this file; nothing here may be called ``handle`` but its method, and nothing is imported from beside it.
"""

from __future__ import annotations

from typing import Any

from chronolens.model_server.torchserve import TorchServeWorker


class TorchServeHandler:
    """One worker of TorchServe; every request of a batch brings its own operation, options and error."""

    def initialize(self, context: Any) -> None:
        """Load the model of the archive on the worker's device, and check it with the golden clip."""
        self._worker = TorchServeWorker(context.system_properties)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer one batch, in order."""
        return self._worker.handle(data, context)
