"""Proof that an artefact answers as the network does: both are asked about the same seeded clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chronolens.clips import ClipSpec
from chronolens.errors import ExportError
from chronolens.explain import grad_cam
from chronolens.explain.protocol import VideoModel, class_indices
from chronolens.export.kind import Ask, Probe
from chronolens.golden import golden_frames
from chronolens.video.prepare import prepare

LOGIT_LIMIT = 1e-4
HEAT_MAP_LIMIT = 1e-3
BATCHES = (1, 3)
"""Sizes of the batches: an artefact that only works for the size it was made with is found out."""


@dataclass(frozen=True)
class Parity:
    """How far an artefact is from the network in float32.

    Args:
        clips: number of clips compared.
        max_logit_difference: over clips and classes.
        same_class: each clip has the same class with the highest logit.
        max_heat_map_difference: over all cells, maps divided by the maximum of each clip.
    """

    clips: int
    max_logit_difference: float
    same_class: bool
    max_heat_map_difference: float

    def require(self) -> None:
        """Raise ExportError unless the artefact is as good as the network; a difference that is not a number is none that may be."""
        for what, found, limit in (
            ("logit", self.max_logit_difference, LOGIT_LIMIT),
            ("heat map", self.max_heat_map_difference, HEAT_MAP_LIMIT),
        ):
            if not found <= limit:
                observed = found if np.isfinite(found) else None
                raise ExportError(f"The artefact's {what} is off by {found:.2g}; nothing was written.", limit=limit, observed=observed)
        if not self.same_class:
            raise ExportError("The artefact predicts another class than the network; nothing was written.")


def probes(spec: ClipSpec, classes: int) -> list[Probe]:
    """Return batches of golden clips of different seeds: the predicted class is explained in the first, and given ones in the others."""
    seeds = iter(range(sum(BATCHES)))
    batches = []
    for size in BATCHES:
        frames = np.stack([golden_frames(spec, next(seeds)) for _ in range(size)])
        clip = torch.from_numpy(np.concatenate([prepare(one, spec) for one in frames]))
        batches.append(Probe(frames, clip, torch.tensor([-1, classes - 1, 0][:size])))
    return batches


def measure(network: VideoModel, ask: Ask, asked: list[Probe]) -> Parity:
    """Ask both about every probe.

    Args:
        network: the eager network; its heat maps are those of :func:`chronolens.explain.grad_cam.heat_maps` with its defaults.
        ask: the artefact.
        asked: see :func:`probes`.

    Raises:
        ExportError: the artefact answers in another shape than the network.
    """
    logits, maps, same = [0.0], [0.0], True
    for probe in asked:
        found, expected = ask(probe), _expected(network, probe)
        if _shapes(found.logits, found.heat_maps) != _shapes(expected.logits, expected.maps):
            raise ExportError(f"The artefact answers in another shape than the network to {len(probe.clip)} clips; nothing was written.")
        logits.append(_largest(found.logits - expected.logits))
        maps += [_largest(grad_cam.scale(found.heat_maps[layer]) - grad_cam.scale(values)) for layer, values in expected.maps.items()]
        same = same and bool((found.logits.argmax(dim=1) == expected.logits.argmax(dim=1)).all())
    # unlike max(), numpy's keeps what is not a number
    return Parity(sum(len(probe.clip) for probe in asked), float(np.max(logits)), same, float(np.max(maps)))


def _expected(network: VideoModel, probe: Probe) -> grad_cam.HeatMaps:
    with torch.no_grad():
        predicted = class_indices(network(probe.clip), None)
    return grad_cam.heat_maps(network, probe.clip, torch.where(probe.target < 0, predicted, probe.target))


def _shapes(logits: Tensor, maps: Mapping[str, Tensor]) -> tuple[torch.Size, dict[str, torch.Size]]:
    return logits.shape, {layer: values.shape for layer, values in maps.items()}


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
