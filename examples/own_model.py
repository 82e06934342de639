"""An own model: `chronolens serve --plugin own_model:build` in this folder serves it beside the shipped ones."""

import torch
from torch import Tensor, nn

from chronolens.clips import ClipSpec
from chronolens.plugins import OwnModel


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv3d(3, 6, 3, stride=(1, 2, 2), padding=1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv3d(6, 12, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(12 * 4, 3)

    def forward(self, clip: Tensor) -> Tensor:  # (N, 3, 8, 32, 32) to logits (N, 3)
        return self.head(self.late(self.early(clip)).mean(dim=(3, 4)).flatten(1))


def build() -> OwnModel:
    torch.manual_seed(0)
    network = TinyNet()
    nn.init.normal_(network.head.weight, std=3.0)  # in place of `network.load_state_dict(...)`
    spec = ClipSpec(frames=8, height=32, width=32, scale=2 / 255, mean=(1.0, 1.0, 1.0))
    return OwnModel("tiny-own", network, spec, ("up", "down", "still"), layers=("early", "late"), warnings=("untrained",))
