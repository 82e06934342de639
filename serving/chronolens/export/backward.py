"""Gradients written with forward operators, for graph formats that have no word for them.

Tracing a gradient (:mod:`chronolens.export.traced`) leaves operators such as ``convolution_backward``. PyTorch itself knows how to write
most of them with simpler ones; the convolutions and poolings that it leaves whole are written here. A case that a function does not cover
returns ``NotImplemented``: the operator then stays whole, and a format without a word for it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions  # PyTorch has no public name for its table

aten = torch.ops.aten


def backward_table() -> dict[Any, Callable[..., Any]]:
    """Return operator -> function, for ``make_fx``; forward operators are left as they are."""
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    known = {operator: rule for operator, rule in table.items() if "backward" in str(operator)}
    return {
        **known,
        aten.convolution_backward.default: _convolution,
        aten.max_pool2d_with_indices_backward.default: _max_pool,
        aten.max_pool3d_with_indices_backward.default: _max_pool,
        aten.avg_pool2d_backward.default: _avg_pool,
        aten.avg_pool3d_backward.default: _avg_pool,
    }


def _convolution(
    slope: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: object,
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    """The gradient of a convolution by its input is the transposed convolution with the same weights."""
    if transposed or any(wanted[1:]):
        return NotImplemented
    window = [dilation[axis] * (weight.shape[2 + axis] - 1) + 1 for axis in range(len(stride))]
    return _transposed(slope, x, weight, window, stride, padding, dilation, groups), None, None


def _max_pool(
    slope: Tensor, x: Tensor, kernel: Sequence[int], _stride: object, _padding: object, _dilation: object, _ceil: object, indices: Tensor
) -> Tensor:
    """Each output's gradient goes to the position that was largest; windows that overlap add up."""
    axes = len(kernel)
    places = torch.zeros_like(x).flatten(-axes)
    return places.scatter_add(-1, indices.flatten(-axes), slope.flatten(-axes)).view_as(x)


def _avg_pool(
    slope: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil: bool,
    count_padding: bool,
    divisor: int | None,
) -> Any:
    """An average is a convolution with equal weights, channel by channel."""
    if ceil or divisor is not None or (any(padding) and not count_padding):
        return NotImplemented
    weight = slope.new_full((1, 1, *kernel), 1 / math.prod(kernel))
    alone, pixels = (values.flatten(0, 1).unsqueeze(1) for values in (slope, x))
    return _transposed(alone, pixels, weight, kernel, stride or kernel, padding, [1] * len(kernel), 1).view_as(x)


def _transposed(
    slope: Tensor,
    x: Tensor,
    weight: Tensor,
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return the transposed convolution that has the shape of ``x``: rows that no window reached get zeros behind."""
    rest = [
        x.shape[2 + axis] - ((slope.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis] + window[axis]) for axis in range(len(stride))
    ]
    spread: Tensor = aten.convolution.default(slope, weight, None, stride, padding, dilation, True, rest, groups)
    return spread
