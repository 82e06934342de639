"""The engine without gradients: networks as ONNX graphs, run by ONNX Runtime. No weights record and no PyTorch network is needed.

Predictions, the heat map of the default layer (the graph computes it) and every forward-only mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chronolens.engine import Engine, Facts, Loaded
from chronolens.errors import ChronolensError, OptionsError, UnknownModelError
from chronolens.explain import grad_cam
from chronolens.explain.protocol import Passes, VideoModel, require_finite
from chronolens.export.loading import clip_spec, open_onnx
from chronolens.mask_slices import LearnRequest
from chronolens.models.weights import WeightsRecord
from chronolens.options import GradCamOptions, mask_settings
from chronolens.wire import Arrays

KIND = "onnx"


class OnnxEngine(Engine):
    """ONNX artefacts, as :class:`chronolens.pipeline.Engine`; ``chronolens export onnx`` makes them.

    Args:
        exports: folder with ``MODEL/onnx``.
        models: which of them; all that are there when None.
        card: number of the worker, which chooses the graphics card.
    """

    def __init__(self, exports: Path, models: Sequence[str] | None = None, *, card: int = 0) -> None:
        super().__init__(exports, "cpu")  # where frames are prepared and perturbed; ONNX Runtime takes its graphs where it likes
        self.precision = "float32"
        self._served = None if models is None else set(models)
        self._card = card % max(1, torch.cuda.device_count())

    def learn_many(self, model: str, requests: list[LearnRequest]) -> list[Facts | ChronolensError]:  # type: ignore[override]
        """See :meth:`chronolens.engine.Engine.learn_many`.

        Raises:
            OptionsError: a mask needs gradients (``method-unavailable``).
        """
        for request in requests:
            if not mask_settings(request.mask, request.operator).forward_only:
                raise _unavailable("an ONNX graph has no gradients to learn a mask by", "/mask/preset", "exhaustive")
        return super().learn_many(model, requests)

    def _names(self) -> list[str]:
        there = sorted(path.parent.parent.name for path in self.store.glob(f"*/{KIND}/manifest.json"))
        return [name for name in there if self._served is None or name in self._served]

    def _open(self, name: str) -> Loaded:
        if name not in self._names():
            raise UnknownModelError("no model of that name is served", pointer="/model", allowed=self._names())
        manifest, network = open_onnx(self.store / name / KIND, card=self._card)
        record = WeightsRecord(
            name,
            manifest.architecture,
            {},
            clip_spec(manifest),
            tuple(manifest.classes),
            manifest.data_set,
            manifest.licence,
            "exported",
            sha256=manifest.weights,
            warnings=tuple(manifest.warnings),
        )
        found: Any = network
        return Loaded(record, found, found, list(network.default_layers), f"onnxruntime:{network.provider}", ["exhaustive"])

    def _looked(
        self, loaded: Loaded, clips: Tensor, target: Tensor | None, gradcam: GradCamOptions | None
    ) -> tuple[Tensor, Arrays, Passes]:
        network: Any = loaded.network
        if gradcam is None:
            logits, maps = network(clips), {}
        else:
            layers = _mapped(gradcam, network)
            logits, found = network.look(clips, target)
            maps = {layer: found[layer].numpy() for layer in layers}
            for layer in layers:
                require_finite(found[layer], "heat maps")
        require_finite(logits, "scores")
        return logits, maps, Passes(forward=len(clips))


def _mapped(gradcam: GradCamOptions, network: VideoModel) -> list[str]:
    """Return the layers to map, when what is asked for is what the graph computes."""
    layers = grad_cam.resolve_layers(network, gradcam.names)
    if set(layers) - set(network.default_layers):
        raise _unavailable("an ONNX graph maps its default layers only", "/gradcam/layers", "default", *network.default_layers)
    if gradcam.weights != "per_frame":
        raise _unavailable("an ONNX graph has one weight per channel and frame", "/gradcam/weights", "per_frame")
    if gradcam.of != "logit":
        raise _unavailable("an ONNX graph has the gradient of the logit", "/gradcam/of", "logit")
    return layers


def _unavailable(detail: str, pointer: str, *allowed: str) -> OptionsError:
    return OptionsError(detail, code="method-unavailable", pointer=pointer, allowed=allowed)
