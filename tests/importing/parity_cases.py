"""One case for each dialect and variant: a checkpoint as its authors would have saved it, a clip, what the original makes of it.

A case also knows wrong originals: each is the second derivation with one fact changed, and must be told from ours, or the comparison
would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from tests.importing import parity_clstm, parity_i3d, parity_slowfast, parity_tsm
from tests.importing.parity_draws import State, pixels
from torch import Tensor

from chronolens.importing.dialects import convert
from chronolens.models import build_model

CLASSES = 5
TOLERANCE = 1e-4
"""Of logits and of scores."""
NOTICED = 1e-3
"""A wrong original is at least this far away."""
Change = Mapping[str, Any]


@dataclass(frozen=True)
class Gap:
    """How far two answers to one clip are from each other: greatest differences of logits and of scores."""

    logits: float
    scores: float


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        dialect: of the checkpoint.
        state: the checkpoint.
        clip: (N, 3, T, H, W).
        original: logits (N, num_classes) of the original code, with keyword arguments that change a fact.
        changes: names of wrong originals and their keyword arguments.
        normalised: the original answers with probabilities; ``original`` is their logarithm, so ours are compared up to a constant.
    """

    dialect: str
    state: State
    clip: Tensor
    original: Callable[..., Tensor]
    changes: Mapping[str, Change]
    normalised: bool = False

    def ours(self) -> Tensor:
        """Return the logits of our network with the imported weights."""
        result = convert(self.state, self.dialect)
        model = build_model(result.architecture, **result.config)
        model.load_state_dict(result.state)
        with torch.inference_mode():
            logits: Tensor = model.eval()(self.clip)
        return logits

    def gap(self, ours: Tensor) -> Gap:
        """Compare our logits with the original's."""
        with torch.inference_mode():
            theirs = self.original()
        logits = _difference(ours.log_softmax(1) if self.normalised else ours, theirs)
        return Gap(logits, _difference(ours.softmax(1), theirs.softmax(1)))

    def distances(self, ours: Tensor) -> dict[str, float]:
        """Return how far our logits are from those of each wrong original, up to the constant that no softmax sees."""
        with torch.inference_mode():
            wrong = {name: self.original(**change) for name, change in self.changes.items()}
        return {name: _difference(ours.log_softmax(1), theirs.log_softmax(1)) for name, theirs in wrong.items()}


def _difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def _bare(state: State, prefix: str = "module.") -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def _i3d(dialect: str, seed: int, strides: tuple[int, int, int], head: str, prefix: str, frames: int, height: int, width: int) -> Case:
    state = parity_i3d.checkpoint(seed, CLASSES, prefix=prefix, counts=bool(prefix))
    clip = pixels(seed + 1, 2, 3, frames, height, width)

    def original(**change: Any) -> Tensor:
        return parity_i3d.logits(_bare(state, prefix), clip, **{"temporal_strides": strides, "head": head, **change})

    other_head = "global" if head == "sliding" else "sliding"
    changes: dict[str, Change] = {
        "eps 1e-5": {"eps": 1e-5},
        "larger half of the padding in front": {"more_in_front": True},
        f"{other_head} head": {"head": other_head},
        "strides (2, 1, 1)": {"temporal_strides": (2, 1, 1)},
    }
    return Case(dialect, state, clip, original, changes)


def _tsm(dialect: str, seed: int, names: parity_tsm.Names) -> Case:
    state = parity_tsm.checkpoint(seed, CLASSES, names)
    clip = pixels(seed + 1, 2, 3, 8, 64, 64)

    def original(consensus: str = "mean of logits", **change: Any) -> Tensor:
        logits = parity_tsm.frame_logits(state, clip, names, **change)
        return logits.mean(1) if consensus == "mean of logits" else logits.softmax(2).mean(1).log()

    changes: dict[str, Change] = {
        "eps 1e-3": {"eps": 1e-3},
        "shift the other way": {"backwards": True},
        "shift around the ends": {"wrapped": True},
        "a quarter each way": {"share": 4},
        "shortcut shifted too": {"whole_block": True},
        "mean of softmax": {"consensus": "mean of softmax"},
    }
    return Case(dialect, state, clip, original, changes)


def _clstm(seed: int, cells: int, frames: int, height: int, width: int) -> Case:
    rows, columns = (size // 4**cells for size in (height, width))
    state = parity_clstm.checkpoint(seed, CLASSES, cells=cells, features=frames * 32 * rows * columns)
    clip = pixels(seed + 1, 1, 3, frames, height, width)

    def original(order: tuple[int, int, int, int] = (1, 2, 3, 4), **change: Any) -> Tensor:
        bare = _bare(state)
        return parity_clstm.classified(bare, parity_clstm.steps(bare, clip, cells=cells, **change), order)

    changes: dict[str, Change] = {
        "eps 1e-3": {"eps": 1e-3},
        "input and forget gate exchanged": {"gates": "fico"},
        "candidate and output gate exchanged": {"gates": "ifoc"},
        "normalised state": {"normed_state": True},
        "average pooling": {"average": True},
        "normalisation after pooling": {"norm_after_pool": True},
        "channels before steps": {"order": (2, 1, 3, 4)},
        "channels last": {"order": (1, 3, 4, 2)},
    }
    if cells < 3:  # the same code runs: only what depends on the shape is changed again
        changes = {name: changes[name] for name in ("normalised state", "channels before steps", "channels last")}
    return Case("authors-clstm", state, clip, original, changes)


_HEADS = {"pyslowfast": "mean of softmax", "pyslowfast-caffe2": "mean of softmax", "pytorchvideo": "mean of logits"}


def _slowfast(dialect: str, seed: int, alpha: int, kernel: int, frames: int = 32, *, large: bool = False) -> Case:
    names = parity_slowfast.DIALECTS[dialect]
    state = parity_slowfast.checkpoint(seed, CLASSES, names, kernel)
    frames, height, width = (8, 256, 288) if large else (frames, 64, 64)
    clip = pixels(seed + 1, 1, 3, frames, height, width)
    rule, other_rule = parity_slowfast.spread, parity_slowfast.every
    slow_first = dialect != "mmaction2-slowfast"
    if not slow_first:
        rule, other_rule = other_rule, rule
    head = _HEADS.get(dialect, "global")

    @cache
    def maps(**change: Any) -> tuple[Tensor, Tensor]:
        facts = {"slow": tuple(rule(frames, alpha)), **change}
        return parity_slowfast.Trunk(names, alpha, **facts).maps(state, clip)

    def original(head: str = head, slow_first: bool = slow_first, **change: Any) -> Tensor:
        slow, fast = maps(**change)
        first, second = (slow, fast) if slow_first else (fast, slow)
        logits = parity_slowfast.position_logits(state, names, first, second, None if head == "global" else 7)
        mean = logits.softmax(2).mean(1) if head == "mean of softmax" else logits.mean(1)
        return mean.log() if head == "mean of softmax" else mean

    changes: dict[str, Change] = {
        "eps 1e-3": {"eps": 1e-3},
        "the other rule for slow frames": {"slow": tuple(other_rule(frames, alpha))},
        "the other order in the classifier": {"slow_first": not slow_first},
        "laterals before slow channels": {"fused_first": True},
        "stride in the first convolution": {"stride_in_a": True},
    }
    if names.lateral_norm:
        changes |= {"laterals without ReLU": {"lateral_relu": False}, "laterals without BatchNorm and ReLU": {"lateral_norm": False}}
    if (kernel, frames) != (7, 32):  # the same code runs: only what depends on the variant is changed again
        changes = {name: changes[name] for name in ("the other rule for slow frames", "the other order in the classifier")}
    if large:
        changes = {other: {"head": other} for other in ("mean of softmax", "mean of logits", "global") if other != head}
    return Case(dialect, state, clip, original, changes, normalised=head == "mean of softmax")


CASES: dict[str, Callable[[], Case]] = {
    "pytorch-i3d": partial(_i3d, "pytorch-i3d", 10, (2, 2, 2), "sliding", "", 20, 90, 75),
    "authors-i3d": partial(_i3d, "authors-i3d", 20, (1, 1, 2), "global", "module.", 16, 64, 96),
    "tsm": partial(_tsm, "tsm", 30, parity_tsm.AUTHORS),
    "mmaction2-tsm": partial(_tsm, "mmaction2-tsm", 40, parity_tsm.MMACTION),
    "pyslowfast 8x8": partial(_slowfast, "pyslowfast", 50, 4, 7),
    "pyslowfast 4x16": partial(_slowfast, "pyslowfast", 60, 8, 5),
    "pyslowfast 16x8": partial(_slowfast, "pyslowfast", 170, 4, 7, 64),
    "pyslowfast 8x8, map of 8 x 9": partial(_slowfast, "pyslowfast", 70, 4, 7, large=True),
    "pyslowfast-caffe2 8x8": partial(_slowfast, "pyslowfast-caffe2", 80, 4, 7),
    "pyslowfast-caffe2 4x16": partial(_slowfast, "pyslowfast-caffe2", 90, 8, 5),
    "pytorchvideo 8x8": partial(_slowfast, "pytorchvideo", 100, 4, 7),
    "pytorchvideo 8x8, map of 8 x 9": partial(_slowfast, "pytorchvideo", 110, 4, 7, large=True),
    "mmaction2-slowfast 8x8": partial(_slowfast, "mmaction2-slowfast", 120, 4, 7),
    "mmaction2-slowfast 4x16": partial(_slowfast, "mmaction2-slowfast", 130, 8, 5),
    "mmaction2-slowfast 8x8, map of 8 x 9": partial(_slowfast, "mmaction2-slowfast", 140, 4, 7, large=True),
    "authors-clstm": partial(_clstm, 150, 3, 16, 224, 224),
    "authors-clstm, KTH": partial(_clstm, 160, 2, 32, 120, 160),
}
