"""What is measured: a network with the clips that it is asked about."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chronolens.clips import ClipSpec, Frames
from chronolens.data.synthetic import make_clip
from chronolens.engine import Engine
from chronolens.explain.protocol import VideoModel
from chronolens.models import build_model
from chronolens.models.base import VideoNetwork
from chronolens.models.precision import InBfloat16
from chronolens.video.prepare import prepare

FULL_SIZE = "I3D L/2, random weights"


@dataclass(frozen=True)
class Subject:
    """A network in float32, in evaluation mode with frozen parameters, its bfloat16 form, and synthetic test clips at its size.

    Args:
        name: of the weights, or what they are.
        network, rough: the two forms.
        frames: for each clip (T, H, W, 3) uint8.
        clips: for each clip (1, 3, T, H, W) float32 on the network's device.
    """

    name: str
    network: VideoNetwork
    rough: InBfloat16
    frames: list[Frames]
    clips: list[Tensor]

    @property
    def size(self) -> str:
        """Frames x rows x columns."""
        return "x".join(str(length) for length in self.clips[0].shape[2:])

    @property
    def forms(self) -> dict[str, VideoModel]:
        """The two forms by their precision."""
        return {"float32": self.network, "bfloat16": self.rough}

    def target(self, number: int) -> int:
        """Return the class that the float32 network predicts for a clip."""
        with torch.no_grad():
            return int(self.network(self.clips[number]).argmax())


def shipped(engine: Engine, name: str, count: int) -> Subject:
    """Return a model of the engine's store with the first ``count`` test clips."""
    loaded = engine.load(name)
    return _subject(name, loaded.network, loaded.record.clip, count)


def full_size(device: torch.device, count: int) -> Subject:
    """Return the authors' "L/2" I3D, 174 classes, 16 frames of 224 x 224, with random weights: what it costs does not depend on them.

    PyTorch's own start lets activations fade from layer to layer until every clip is answered alike; that of He et al. 2015 keeps them, so
    that a mask has something to find.
    """
    torch.manual_seed(0)
    network = build_model("i3d").eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
    return _subject(FULL_SIZE, network.to(device), ClipSpec(16, 224, 224, scale=2 / 255, mean=(1.0, 1.0, 1.0)), count)


def _subject(name: str, network: VideoNetwork, spec: ClipSpec, count: int) -> Subject:
    device = next(network.parameters()).device
    frames = [make_clip("test", number).render(spec.height, spec.width, spec.frames) for number in range(count)]
    clips = [torch.from_numpy(prepare(one, spec)).to(device) for one in frames]
    return Subject(name, network, InBfloat16(network), frames, clips)
