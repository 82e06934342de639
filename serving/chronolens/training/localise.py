"""Teaching a network to find its evidence on the things that move.

A class is learned from labels alone, wherever a network finds it: with windows as wide as the frame, the evidence for "moving up" may sit
well beside the object. Where the boxes of the moving objects are known, a second loss asks for more: in each step of the map the evidence
``w_c . A`` of the true class, as a softmax over places, shall lie in the boxes. It costs no further pass. The
heat maps of such a network are trained to lie in the boxes; that they do so on unseen clips is what the truth test can show.

Related: Ross et al. 2017 (right for the right reasons), Li et al. 2018 (guided attention).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chronolens.clips import CellGrid
from chronolens.data.motion_truth import MotionTruth, inside_boxes
from chronolens.models.base import VideoNetwork

Window = tuple[int, int, int, int]
LEAST = 1e-4


def cover(truth: MotionTruth, grid: CellGrid, shape: tuple[int, int, int], size: int) -> npt.NDArray[np.float32]:
    """Return how much of each cell's tile the boxes of moving objects cover.

    Args:
        truth: about the clip, boxes relative to the picture that the network sees.
        grid: where the cells of the map lie.
        shape: (T', h, w) of the map.
        size: height and width of the picture in pixels.

    Returns:
        (T', h, w) in [0, 1], the mean over the frames of a step on which something moves; zeros in steps without moving objects. What
        lies beyond the outermost tiles belongs to no cell.
    """
    steps, rows, columns = shape
    found = np.zeros(shape, dtype=np.float32)
    if truth.what != "object":
        return found
    step_of = grid.steps_shown(steps, len(truth.moving))
    edges = [_edges(grid.first[axis], grid.stride[axis], count, size) for axis, count in ((1, rows), (2, columns))]
    for step in range(steps):
        shown = np.flatnonzero((step_of == step) & truth.moving)
        for t in shown:
            sums = np.pad(inside_boxes(truth.boxes[t], size, size).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
            (top, bottom), (left, right) = edges
            area = sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)] + sums[np.ix_(top, left)]
            found[step] += area / (grid.stride[1] * grid.stride[2]) / len(shown)
    return np.clip(found, 0.0, 1.0)


def _edges(first: float, stride: float, count: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the pixels at which the tiles of cells begin and end."""
    centres = first + stride * np.arange(count)
    begin, end = (np.clip(np.rint(centres + side * stride / 2), 0, size).astype(np.int64) for side in (-1, 1))
    return begin, end


def cropped(truth: MotionTruth, window: Window, height: int, width: int) -> MotionTruth:
    """Return the truth with its boxes relative to a window (top, left, rows, columns) of a picture of ``height`` x ``width``."""
    top, left, rows, columns = window
    scale, shift = np.array([width, height, width, height]), np.array([left, top, left, top])
    boxes = np.clip((truth.boxes * scale - shift) / np.array([columns, rows, columns, rows]), 0.0, 1.0)
    return MotionTruth(truth.what, truth.moving, boxes)


def localisation_loss(model: VideoNetwork, layer: str, features: Tensor, targets: Tensor, covered: Tensor) -> Tensor:
    """Return the mean of ``-log(sum of cover * softmax of the evidence over places)`` over the steps in which an object moves.

    Args:
        model: with logits that are linear in the layer.
        layer: its name.
        features: (N, C, T', h, w) its activations.
        targets: (N,) true classes.
        covered: (N, T', h, w) from :func:`cover`.

    Returns:
        A scalar; 0 when nothing moves in the batch.

    Raises:
        ValueError: the model has no linear head.
    """
    head = model.linear_head(layer, *features.shape[2:])
    if head is None:
        raise ValueError("only a network with a linear head can be taught where to look")
    evidence = torch.einsum("nk,nkthw->nthw", head[0][targets].float(), features.float()).flatten(2)
    inside = (evidence.softmax(dim=2) * covered.flatten(2)).sum(dim=2)
    taught = covered.flatten(2).amax(dim=2) > 0
    return -(inside[taught] + LEAST).log().sum() / taught.sum().clamp(min=1)
