"""Shared by all tests: a clean environment, a store with two tiny random networks, a small clip."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded: spinning threads crawl on a busy machine

from pathlib import Path

import numpy as np
import pytest
import torch

from chronolens.clips import ClipInfo, ClipSpec, DecodedClip
from chronolens.models import build_model
from chronolens.models.weights import WeightsRecord, save_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
CLASSES = ("opening", "closing", "turning", "holding")
SPEC = ClipSpec(8, 32, 32, scale=2 / 255, mean=(1.0, 1.0, 1.0))
TINY = {
    "tiny-clstm": ("clstm", {"num_classes": 4, "frames": 8, "height": 32, "width": 32, "hidden": 4, "strides": (2, 2)}),
    "tiny-i3d": ("i3d", {"num_classes": 4, "temporal_strides": (2, 1, 1), "last_stride": 1}),
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No setting of the developer's shell reaches a test."""
    for name in [key for key in os.environ if key.startswith("CHRONOLENS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory):
    """A model store with two networks of random weights that answer in milliseconds."""
    store = tmp_path_factory.mktemp("store")
    for seed, (name, (architecture, config)) in enumerate(TINY.items()):
        torch.manual_seed(seed)
        model = build_model(architecture, **config)
        # random logits of a fresh network are nearly equal; a wider classifier makes scores that a mask can move
        head = model.endFC if architecture == "clstm" else model.logits.conv3d
        with torch.no_grad():
            head.weight.mul_(20)
        record = WeightsRecord(
            name, architecture, config, SPEC, CLASSES, "none", "Apache-2.0", "random numbers", warnings=("random weights",)
        )
        save_weights(model, record, store)
    return store


@pytest.fixture
def clip():
    """A decoded clip of 8 frames: a bright square that moves to the right from frame 3 to frame 5."""
    frames = np.full((8, 48, 64, 3), 40, np.uint8)
    for number, left in enumerate([4, 4, 4, 20, 36, 48, 48, 48]):
        frames[number, 16:28, left : left + 12] = (250, 200, 60)
    info = ClipInfo("ab" * 32, "mp4", "h264", 64, 48, 10.0, 16, 1.6)
    return DecodedClip(frames, np.arange(1, 17, 2), np.arange(1, 17, 2) / 10, info, [])
