"""The exchange with PyTorchVideo, which answers in a process of an environment of its own: what is asked, and how far answers are apart."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.importing.parity_draws import State, pixels
from torch import Tensor

from chronolens.importing.dialects import convert
from chronolens.models import build_model
from chronolens.models.base import VideoNetwork

SIDE = Path(__file__).with_name("pytorchvideo_side.py")
CLASSES = 5
# alpha, kernel of the laterals, clip (N, 3, T, H, W), side of the pooling window
VARIANTS: dict[str, tuple[int, int, tuple[int, int, int, int, int], int]] = {
    "8x8": (4, 7, (2, 3, 32, 64, 64), 2),
    "4x16": (8, 5, (2, 3, 32, 64, 64), 2),
    "8x8, map of 8 x 9": (4, 7, (1, 3, 8, 256, 288), 7),
}
OURS_TO_THEIRS: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"s1\.pathway(\d)_stem\.conv\.", lambda m: f"blocks.0.multipathway_blocks.{m[1]}.conv."),
    (r"s1\.pathway(\d)_stem\.bn\.", lambda m: f"blocks.0.multipathway_blocks.{m[1]}.norm."),
    (r"s(\d)_fuse\.conv_f2s\.", lambda m: f"blocks.{int(m[1]) - 1}.multipathway_fusion.conv_fast_to_slow."),
    (r"s(\d)_fuse\.bn\.", lambda m: f"blocks.{int(m[1]) - 1}.multipathway_fusion.norm."),
    (r"s(\d)\.pathway(\d)_res(\d)\.", lambda m: f"blocks.{int(m[1]) - 1}.multipathway_blocks.{m[2]}.res_blocks.{m[3]}."),
    (r"\bbranch1_bn\.", lambda m: "branch1_norm."),
    (r"\bbranch1\.", lambda m: "branch1_conv."),
    (r"\bbranch2\.([abc])_bn\.", lambda m: f"branch2.norm_{m[1]}."),
    (r"\bbranch2\.([abc])\.", lambda m: f"branch2.conv_{m[1]}."),
    (r"^head\.projection\.", lambda m: "blocks.6.proj."),
]


@dataclass(frozen=True)
class Exchanged:
    """Both directions of one variant.

    Attributes:
        clip: (N, 3, T, H, W).
        their_state: weights that PyTorchVideo drew, in its names.
        their_logits: its answer with them, (N, num_classes).
        our_network: with weights that we drew.
        logits_with_ours: PyTorchVideo's answer with those, (N, num_classes).
    """

    clip: Tensor
    their_state: State
    their_logits: Tensor
    our_network: VideoNetwork
    logits_with_ours: Tensor

    def their_weights_in_ours(self, **change: Any) -> float:
        """Return the greatest difference of logits and scores.

        Args:
            change: options of our network set otherwise than imported; logits are then compared up to the constant that no softmax sees.
        """
        imported = convert(self.their_state)
        network = build_model(imported.architecture, **{**imported.config, **change})
        network.load_state_dict(imported.state)
        return _difference(network.eval(), self.clip, self.their_logits, exact=not change)

    def our_weights_in_theirs(self) -> float:
        """Return the greatest difference of logits and scores."""
        return _difference(self.our_network, self.clip, self.logits_with_ours)


def exchange(python: str, folder: Path) -> dict[str, Exchanged]:
    """Ask PyTorchVideo about every variant in one process: its import takes seconds.

    Args:
        python: an interpreter that has PyTorchVideo.
        folder: an empty folder for the files that go to and fro.
    """
    questions: list[dict[str, Any]] = []
    networks = []
    for seed, (alpha, kernel, shape, side) in enumerate(VARIANTS.values()):
        steps = shape[2]
        options = {
            "model_num_class": CLASSES,
            "slowfast_fusion_conv_kernel_size": (kernel, 1, 1),
            "slowfast_fusion_conv_stride": (alpha, 1, 1),
            "head_pool_kernel_sizes": ((steps // alpha, side, side), (steps, side, side)),
        }
        network = build_model("slowfast", num_classes=CLASSES, alpha=alpha, fusion_kernel=kernel, head="softmax_of_mean")
        networks.append(_drawn(network, seed))
        for state in (None, in_their_names(network.state_dict())):
            questions.append({"options": options, "alpha": alpha, "clip": pixels(seed, *shape), "state": state})
    torch.save(questions, folder / "ask.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run([python, SIDE, folder], check=True, timeout=500, env=environment)
    answers = torch.load(folder / "answer.pt", weights_only=True)
    return {
        name: Exchanged(questions[2 * place]["clip"], theirs["state"], theirs["logits"], networks[place], ours["logits"])
        for place, (name, theirs, ours) in enumerate(zip(VARIANTS, answers[::2], answers[1::2], strict=True))
    }


def in_their_names(state: State) -> State:
    """Return a state of ours as PyTorchVideo names it."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, spell in OURS_TO_THEIRS:
            name = re.sub(pattern, spell, name)
        renamed[name] = tensor
    return renamed


def _drawn(network: VideoNetwork, seed: int) -> VideoNetwork:
    random = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=random)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.25, generator=random)
        elif tensor.dim() == 1:
            tensor.uniform_(0.1, 0.9, generator=random)
        elif tensor.dim() > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=random)
    return network.eval()


def _difference(network: VideoNetwork, clip: Tensor, theirs: Tensor, *, exact: bool = True) -> float:
    with torch.inference_mode():
        ours: Tensor = network(clip)
    logits = ours - theirs if exact else ours.log_softmax(1) - theirs.log_softmax(1)
    return max(logits.abs().max().item(), (ours.softmax(1) - theirs.softmax(1)).abs().max().item())
