"""Checkpoints as each code base would save them, small and random.

Their names come from our own spelling of each dialect, which test_detect.py holds to upstream's.
"""

import torch

from chronolens.importing import dialects
from chronolens.models import build_model

SMALL = {
    "pytorch-i3d": ("i3d", {}),
    "authors-i3d": ("i3d", {}),
    "authors-clstm": ("clstm", {}),
    "pyslowfast": ("slowfast", {"depth": 18, "width": 16}),
    "pyslowfast-caffe2": ("slowfast", {"width": 16}),
    "pytorchvideo": ("slowfast", {"depth": 18, "width": 16}),
    "mmaction2-slowfast": ("slowfast", {"depth": 18, "width": 16, "fusion_norm": False}),
    "tsm": ("tsm", {"depth": 18, "width": 16}),
    "mmaction2-tsm": ("tsm", {"depth": 18, "width": 16}),
}


def ours(dialect, classes=5, **config):
    """Return a random network of ours; BatchNorm has other numbers than its first ones, so that a swap shows."""
    architecture, small = SMALL[dialect]
    torch.manual_seed(7)
    model = build_model(architecture, num_classes=classes, **{**small, **config})
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "bn" in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return model


def theirs(dialect, classes=5, **config):
    """Return the tensors of a file of that dialect."""
    translation = dialects._TRANSLATIONS[dialect]
    state = ours(dialect, classes, **config).state_dict()
    flat = {name: tensor.squeeze(2) if translation.flat and tensor.ndim == 5 else tensor for name, tensor in state.items()}
    prefix = "module." if dialect.startswith("authors") else ""
    counted = {name: tensor for name, tensor in flat.items() if dialect != "pyslowfast-caffe2" or "num_batches" not in name}
    return {prefix + translation.spell(name): tensor for name, tensor in counted.items()}
