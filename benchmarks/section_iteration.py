"""What an iteration of a mask costs against a forward pass, and eight clips in one batch against eight alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from markdown_table import Table
from rounds import take_turns
from subjects import Subject
from torch import Tensor

from chronolens.explain.protocol import VideoModel
from chronolens.explain.temporal_mask import advance, begin, settings
from chronolens.explain.words import OPERATORS, Operator

TOGETHER = 8


def forward(model: VideoModel, clips: Tensor) -> Tensor:
    """Return logits, without a graph."""
    with torch.no_grad():
        return model(clips)


def input_gradient(model: VideoModel, clips: Tensor) -> Tensor:
    """Return the gradient of the first class's scores by the clips: a forward pass and an input gradient."""
    pixels = clips.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(pixels).softmax(dim=1)[:, 0].sum(), pixels)
    return slope


def one_iteration(model: VideoModel, clip: Tensor, target: int, operator: Operator) -> Callable[[], object]:
    """Return one iteration of the preset ``authors``, the way the product does it; it begins anew at every call.

    The start is drawn, which costs no pass; what an iteration costs does not depend on where it starts.
    """
    rule = settings("authors", operator, init="random")
    state = begin(rule, clip.shape[2])
    return partial(advance, model, clip, target, rule, state, max_steps=1)


def iteration_tables(subjects: Sequence[Subject], rounds: int) -> list[Table]:
    """Return the wall time of a forward pass and of an iteration, side by side, in both precisions."""
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        clip, target = subject.clips[0], subject.target(0)
        for precision, model in subject.forms.items():
            works: dict[str, Callable[[], object]] = {"forward": partial(forward, model, clip)}
            works |= {operator: one_iteration(model, clip, target, operator) for operator in OPERATORS}
            took = take_turns(works, rounds)
            rows.append(
                {"model": subject.name, "clip": subject.size, "precision": precision}
                | {f"{name}_s": seconds for name, seconds in took.items()}
                | {f"{operator}_/_forward": took[operator] / took["forward"] for operator in OPERATORS}
            )
    note = "An iteration mixes the frames, runs the network, differentiates by the input and moves the mask; batch 1. The demand is 3.0."
    return [Table("One iteration of a mask against one forward pass", rows, [note])]


def batch_tables(subjects: Sequence[Subject], served: str, rounds: int) -> list[Table]:
    """Return the wall time of eight different clips as one batch and of the same eight alone.

    Args:
        subjects: with at least eight clips each.
        served: precision in which masks are learned here; forward passes are also measured in float32, in which predictions are served.
        rounds: rounds that count.
    """
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        clips = subject.clips[:TOGETHER]
        joined = torch.cat(clips)
        for precision in dict.fromkeys(["float32", served]):
            model = subject.forms[precision]
            for kind, work in {"forward": forward, "forward + input gradient": input_gradient}.items():
                took = take_turns({"batch": partial(work, model, joined), "alone": partial(_each, work, model, clips)}, rounds)
                rows.append(
                    {"model": subject.name, "clip": subject.size, "precision": precision, "pass": kind, "clips": len(clips)}
                    | {"batch_s": took["batch"], "alone_s": took["alone"], "batch_/_alone": took["batch"] / took["alone"]}
                )
    return [Table("Eight clips in one batch against eight alone", rows, [f"Masks are learned in {served} here."])]


def _each(work: Callable[[VideoModel, Tensor], Tensor], model: VideoModel, clips: Sequence[Tensor]) -> None:
    for clip in clips:
        work(model, clip)
