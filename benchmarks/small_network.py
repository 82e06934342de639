"""A small video network that a benchmark trains itself in a few minutes, at 64 x 64 pixels, on the synthetic data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronolens.clips import CellGrid
from chronolens.data.synthetic import LABELS, make_clip
from chronolens.models.base import VideoNetwork

FRAMES, SIZE = 16, 64


class SmallNetwork(VideoNetwork):
    """Four 3-D convolutions, average pool, linear layer: input (N, 3, 16, 64, 64) in [-1, 1], output logits (N, 16)."""

    default_layers = ("body",)
    memory_format = torch.channels_last_3d

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in (
            (3, 8, (3, 5, 5), (1, 2, 2)),
            (8, 16, (3, 3, 3), (1, 2, 2)),
            (16, 32, (3, 3, 3), (2, 2, 2)),
            (32, 64, (3, 3, 3), (1, 1, 1)),
        ):
            padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
            layers += [nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(64, len(LABELS))

    def forward(self, clip: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(clip).mean(dim=(2, 3, 4)))
        return logits

    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        """No heat maps are asked for here."""
        raise NotImplementedError


def prepared(frames: Tensor) -> Tensor:
    """Return clips (N, 3, T, H, W) in [-1, 1] from uint8 frames (N, T, H, W, 3)."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def pool(split: str, clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return uint8 frames (N, T, H, W, 3) and classes (N,) of the first clips of a split."""
    made = [make_clip(split, index, seed) for index in range(clips)]
    frames = torch.stack([torch.from_numpy(clip.render(SIZE, SIZE, FRAMES)) for clip in made])
    return frames, torch.tensor([clip.target for clip in made])


def train(frames: Tensor, classes: Tensor, *, epochs: int, batch: int = 16, seed: int = 0) -> SmallNetwork:
    """Return a network trained on some clips, in evaluation mode, parameters frozen."""
    torch.manual_seed(seed)
    network = SmallNetwork().train().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    steps = epochs * (len(frames) // batch)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(frames))[: len(frames) // batch * batch].split(batch):  # type: ignore[no-untyped-call]
            loss = F.cross_entropy(network(prepared(frames[rows])), classes[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    trained: SmallNetwork = network.eval().requires_grad_(False)
    return trained


def accuracy(network: SmallNetwork, frames: Tensor, classes: Tensor) -> float:
    """Return the share of clips that are recognised."""
    with torch.no_grad():
        said = torch.cat([network(prepared(rows)).argmax(dim=1) for rows in frames.split(32)])  # type: ignore[no-untyped-call]
    return float((said == classes).float().mean())
