"""Runs in the environment that has PyTorchVideo: builds its SlowFast, answers clips, exchanges tensors with the test through files.

    python pytorchvideo_side.py FOLDER

``FOLDER/ask.pt`` is a list of questions: ``options`` of ``create_slowfast``, ``alpha``, a ``clip``, and a ``state`` to load or None for
weights of its own. ``FOLDER/answer.pt`` is a list of their ``state`` and ``logits``.
"""

import sys
from pathlib import Path

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # its compiled operators do not load beside a CPU build of PyTorch; its Python part asks only that they are declared
    for _operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from pytorchvideo.models.slowfast import create_slowfast

SEED = 5


def own_weights(model, pathways):
    """Let one training pass set the running statistics of a new network, then move every weight and shift of a normalisation."""
    random = torch.Generator().manual_seed(SEED)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of this pass alone
    model.train()([x + torch.randn(x.shape, generator=random) for x in pathways])
    for norm in norms:
        norm.weight.mul_(0.5 + torch.rand(norm.weight.shape, generator=random))
        norm.bias.copy_(torch.randn(norm.bias.shape, generator=random) / 4)
    model.blocks[-1].proj.weight.normal_(0, 0.03, generator=random)


@torch.no_grad()
def answer(question):
    """Return the state and the logits of one question."""
    torch.manual_seed(SEED)
    clip, alpha = question["clip"], question["alpha"]
    model = create_slowfast(**question["options"])
    frames = clip.shape[2]
    slow = torch.index_select(clip, 2, torch.linspace(0, frames - 1, frames // alpha).long())
    if question["state"] is None:
        own_weights(model, [slow, clip])
    else:
        model.load_state_dict(question["state"], strict=True)
    model.eval()
    return {"state": model.state_dict(), "logits": model([slow, clip])}


def main():
    """Answer every question of the folder."""
    folder = Path(sys.argv[1])
    questions = torch.load(folder / "ask.pt", weights_only=True)
    torch.save([answer(question) for question in questions], folder / "answer.pt")


if __name__ == "__main__":
    main()
