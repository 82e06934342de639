"""What a kind of artefact has to offer, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from chronolens.clips import Frames
from chronolens.models.base import VideoNetwork
from chronolens.models.weights import WeightsRecord

Options = Mapping[str, Any]
"""What decided how an artefact was written, for its manifest: names and JSON values."""


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Args:
        record: of the weights.
        network: in evaluation mode, float32, parameters frozen, on the CPU.
        store: folder that holds record and weights file, unless a plugin brings the network.
    """

    record: WeightsRecord
    network: VideoNetwork
    store: Path


@dataclass(frozen=True)
class Probe:
    """A batch that an artefact and the network are both asked about.

    Args:
        frames: (N, T, H, W, 3) uint8, for artefacts that prepare clips themselves.
        clip: (N, 3, T, H, W) float32, the same prepared by the clip spec.
        target: (N,) int64, the class to explain, -1 for the predicted one of that row.
    """

    frames: Frames
    clip: Tensor
    target: Tensor


@dataclass(frozen=True)
class Answer:
    """Logits (N, K) and, by default layer, unscaled heat maps (N, T', H', W') of a probe, as the artefact gives them."""

    logits: Tensor
    heat_maps: Mapping[str, Tensor]


Ask = Callable[[Probe], Answer]


@dataclass(frozen=True)
class Kind:
    """One kind of artefact.

    Args:
        write: puts the files into an empty folder and returns the options for the manifest; raises ExportError when it cannot.
        load: reads the files back, as the one who serves them would, and returns what answers probes.
        packages: distributions whose versions the manifest names, beside those of this package, PyTorch and NumPy.
    """

    write: Callable[[Subject, Path], Options]
    load: Callable[[Subject, Path], Ask]
    packages: tuple[str, ...] = ()
