"""Triton's way in to the full explanation: a model of the Python backend that takes packed calls."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from chronolens.model_server.triton import ExplainModel


class TritonPythonModel:
    """One instance; every request of a batch brings its own call and gets its own answer."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model of this folder on the instance's device, and check it with the golden clip."""
        self._model = ExplainModel(args, pb_utils)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer one batch, in order."""
        return self._model.execute(requests)
