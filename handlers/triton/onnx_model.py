"""Triton's way in to the ONNX graph where the server has no ONNX backend: the same inputs and outputs, by ONNX Runtime in Python."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from chronolens.model_server.triton import OnnxModel


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph of this folder, and check it with the golden clip."""
        self._model = OnnxModel(args, pb_utils)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer one batch, in order."""
        return self._model.execute(requests)
