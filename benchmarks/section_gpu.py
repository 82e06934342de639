"""One GPU: clips a second, and both masks by the published loop without the host, with and without CUDA graphs and the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from device_loop import DeviceLoop, DeviceMasks, central_starts
from markdown_table import Table
from rounds import take_turns, timed
from section_iteration import batch_tables, forward
from section_precision import learned
from subjects import Subject, full_size, shipped
from torch import Tensor, nn

from chronolens.engine import Engine
from chronolens.explain.protocol import Passes, VideoModel
from chronolens.explain.temporal_mask import rescored, settings
from chronolens.explain.words import OPERATORS

BATCHES = (1, 2, 4, 8, 16, 32, 64)
STEPS = 300
FEW = 3
"""Rounds at most of work that takes seconds."""


def gpu_tables(names: Sequence[str], rounds: int, *, compiling: bool = True) -> list[Table]:
    """Return the tables of the first CUDA device, or one line that says there is none.

    Args:
        names: of shipped models.
        rounds: rounds that count.
        compiling: measure the compiler too, which takes minutes to compile.
    """
    if not torch.cuda.is_available():
        return [Table("One GPU", [], ["Not measured: PyTorch finds no CUDA device here."])]
    device = torch.device("cuda")
    engine = Engine(device="cuda")
    subjects = [full_size(device, 8), *(shipped(engine, name, 8) for name in names)]
    # shapes never change, so cuDNN may try all its kernels in the warm-up
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return [
            throughput_table(subjects, BATCHES, rounds, compiling=compiling),
            masks_table(subjects, STEPS, rounds, compiling=compiling),
            *batch_tables(subjects, "bfloat16", rounds),
        ]


def throughput_table(subjects: Sequence[Subject], batches: Sequence[int], rounds: int, *, compiling: bool = True) -> Table:
    """Return clips a second in bfloat16, eager and compiled, for some batch sizes."""
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        for batch in batches:
            clips = torch.cat(subject.clips).repeat(-(-batch // len(subject.clips)), 1, 1, 1, 1)[:batch]
            works: dict[str, Callable[[], object]] = {"eager": partial(forward, subject.rough, clips)}
            reason = None
            if compiling:
                torch.compiler.reset()
                works["compiled"] = partial(forward, cast(VideoModel, torch.compile(cast(nn.Module, subject.rough), dynamic=False)), clips)
                reason = failure(works["compiled"])
                if reason:
                    del works["compiled"]
            took = take_turns(works, rounds)
            speeds = {f"{name}_clips_a_s": batch / took[name] if name in took else None for name in ("eager", "compiled")}
            rows.append({"model": subject.name, "clip": subject.size, "batch": batch, **speeds, "compiler_failed": reason})
    return Table("Forward passes in bfloat16: clips a second", rows, ["Goals for the I3D of 16x224x224 on an H200: 400, better 800."])


def masks_table(subjects: Sequence[Subject], steps: int, rounds: int, *, compiling: bool = True) -> Table:
    """Return the seconds of both masks of one clip by the published loop on the device, and by the product's default preset.

    Where there is no CUDA device the graph is left out, so that everything else can be tried.
    """
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        rows += _loops(subject, steps, rounds, compiling)
        clip, target = subject.clips[0], subject.target(0)
        took = take_turns({"default": partial(_default, subject, clip, target)}, min(rounds, FEW))["default"]
        rows.append(_row(subject, "preset default, host decides", _default(subject, clip, target).total, took))
    notes = [
        f"Published loop: preset authors, {steps} steps, both masks in one batch of two, bfloat16; the search for the start and the first"
        " run, which captures and compiles, are listed beside it. Goals for the I3D of 16x224x224 on an H200: 5 s, better 1.5 s; default"
        " preset 0.3 s.",
        "Objectives apart: largest difference of any objective on the way from the eager loop's.",
    ]
    return Table("Both masks of one clip", rows, notes)


def failure(work: Callable[[], object]) -> str | None:
    """Do the work; return None, or in one line how it failed. For the compiler, which needs tools that a machine may lack."""
    try:
        work()
    except Exception as error:  # a compiler may fail in any way, and the table says how
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return None


def _loops(subject: Subject, steps: int, rounds: int, compiling: bool) -> list[dict[str, Any]]:
    clip, target = subject.clips[0], subject.target(0)
    starts: list[tuple[Tensor, Passes]] = []
    searching = timed(lambda: starts.append(central_starts(subject.rough, clip, [target])))
    logits, spent = starts[0]
    passes = spent.total + len(OPERATORS) * (2 * steps + 1)
    variants: list[tuple[str, bool, bool]] = [("eager", False, False)]
    variants += [("graph", True, False)] if clip.is_cuda else []
    variants += [("compiled and graph" if clip.is_cuda else "compiled", clip.is_cuda, True)] if compiling else []
    rows: list[dict[str, Any]] = []
    yardstick: Tensor | None = None
    for name, graph, compiled in variants:
        torch.compiler.reset()
        loop = DeviceLoop(subject.rough, clip, [target], logits, graph=graph, compiled=compiled)
        reason: list[str | None] = []
        first = timed(partial(_into, reason, partial(failure, partial(loop.run, steps))))
        if reason[0]:
            rows.append(_row(subject, f"published loop, {name}", passes, None, failed=reason[0]))
            continue
        done: list[DeviceMasks] = []
        took = take_turns({name: partial(_into, done, partial(loop.run, steps))}, min(rounds, FEW))[name]
        yardstick = done[0].history if yardstick is None else yardstick
        apart = float((done[0].history - yardstick).abs().max())
        rows.append(_row(subject, f"published loop, {name}", passes, took, search=searching, first=first, apart=apart))
    return rows


def _into(results: list[Any], work: Callable[[], object]) -> None:
    results.append(work())


def _default(subject: Subject, clip: Tensor, target: int) -> Passes:
    """Learn both masks as the engine does: in bfloat16, the result rescored in float32."""
    spent = Passes()
    for operator in OPERATORS:
        rule = settings("default", operator)
        spent += rescored(subject.network, clip, target, rule, learned(subject.rough, clip, target, rule)).passes
    return spent


def _row(
    subject: Subject,
    loop: str,
    passes: int,
    seconds: float | None,
    *,
    search: float | None = None,
    first: float | None = None,
    apart: float | None = None,
    failed: str | None = None,
) -> dict[str, Any]:
    return {
        "model": subject.name,
        "clip": subject.size,
        "loop": loop,
        "passes": passes,
        "seconds": seconds,
        "search_s": search,
        "first_run_s": first,
        "objectives_apart": apart,
        "failed": failed,
    }
