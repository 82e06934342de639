"""Are flat kernels in three axes as fast as in two, what does the order in memory change, and in how many axes should the stem pool?

    OMP_NUM_THREADS=1 python benchmarks/residual_layout.py

Prints a table and writes benchmarks/results/residual_layout.json. ADR 7 rests on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import write
from markdown_table import Table
from torch import Tensor

from chronolens.models.resnet import pool_frames

SHAPES = ((32, 28, 16), (64, 56, 8))
"""Channels, side and frames."""
ROUNDS = 9
LAST = torch.channels_last_3d


def least(work: Callable[[], object]) -> float:
    """Return the shortest of some runs in milliseconds, after one to warm up."""
    work()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def convolutions(channels: int, side: int, frames: int, dtype: torch.dtype) -> dict[str, float]:
    """Return milliseconds of a (1, 3, 3) convolution of one clip: in three axes in both orders, and in two axes, channels last."""
    clip, weight = torch.randn(1, channels, frames, side, side).to(dtype), torch.randn(channels, channels, 1, 3, 3).to(dtype)
    folded = clip[0].transpose(0, 1).contiguous(memory_format=torch.channels_last)
    flat = weight[:, :, 0].contiguous(memory_format=torch.channels_last)
    last, ordered = clip.contiguous(memory_format=LAST), weight.contiguous(memory_format=LAST)
    with torch.no_grad():
        return {
            "plain_ms": least(lambda: F.conv3d(clip, weight, padding=(0, 1, 1))),
            "channels_last_ms": least(lambda: F.conv3d(last, ordered, padding=(0, 1, 1))),
            "two_axes_ms": least(lambda: F.conv2d(folded, flat, padding=1)),
        }


def pooling(channels: int, side: int, frames: int, dtype: torch.dtype) -> dict[str, float]:
    """Return milliseconds of the stem's pooling with its gradient, in three axes and in two."""
    clip = torch.rand(1, channels, frames, 2 * side, 2 * side).to(dtype).contiguous(memory_format=LAST).requires_grad_()

    def both(pool: Callable[[Tensor], Tensor]) -> None:
        torch.autograd.grad(pool(clip).sum(), clip)

    return {
        "pool_three_axes_ms": least(lambda: both(lambda x: F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)))),
        "pool_two_axes_ms": least(lambda: both(pool_frames)),
    }


def main() -> None:
    """Measure, print and write."""
    rows = []
    for channels, side, frames in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            size = f"{channels} x {frames} x {side} x {side}, {str(dtype).removeprefix('torch.')}"
            rows.append({"size": size, **convolutions(channels, side, frames, dtype), **pooling(channels, side, frames, dtype)})
    table = Table("Flat kernels: order in memory and number of axes", rows)
    print(table.markdown())
    question = "Are flat kernels in three axes as fast as in two, and in what order in memory?"
    write(Path(__file__).parent / "results" / "residual_layout.json", question, table.to_json())


if __name__ == "__main__":
    main()
