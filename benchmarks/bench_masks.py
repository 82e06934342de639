"""What do masks and heat maps cost, against a forward pass, the authors' loop, other libraries and each other?

    OMP_NUM_THREADS=1 python benchmarks/bench_masks.py --threads 1
    python benchmarks/bench_masks.py --sections iteration gradcam --models clstm-synthetic --rounds 3

Sections: ``iteration`` (one step of a mask / one forward pass), ``gradcam`` (prediction and heat map / one forward pass; captum and
pytorch-grad-cam beside it where they are installed), ``authors`` (both masks of a clip: the authors' loop, ours), ``precision`` (masks
learned in bfloat16 against float32), ``batch`` (eight clips together / alone), ``gpu`` (where there is one). What is compared takes turns
in one run, so that whatever else the machine does hits all of it. Times are medians over rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from machine import write
from markdown_table import Table
from section_authors import authors_tables
from section_gpu import gpu_tables
from section_gradcam import gradcam_tables
from section_iteration import TOGETHER, batch_tables, iteration_tables
from section_precision import precision_tables
from subjects import full_size, shipped

from chronolens.engine import Engine

SECTIONS = ("iteration", "gradcam", "authors", "precision", "batch", "gpu")


def sections(
    engine: Engine, models: Sequence[str], rounds: int, clips: int, *, compiling: bool = True
) -> dict[str, Callable[[], list[Table]]]:
    """Return the work of each section; all but ``gpu`` run on the engine's device.

    Args:
        engine: with the store of the models.
        models: names of shipped models.
        rounds: rounds that count.
        clips: clips whose masks are compared between precisions.
        compiling: of :func:`section_gpu.gpu_tables`.
    """
    subjects = [shipped(engine, name, max(TOGETHER, clips)) for name in models]
    return {
        "iteration": lambda: iteration_tables([*subjects, full_size(engine.device, 1)], rounds),
        "gradcam": lambda: gradcam_tables(subjects, rounds),
        "authors": lambda: authors_tables(engine, subjects, rounds),
        "precision": lambda: precision_tables(subjects, clips),
        "batch": lambda: batch_tables(subjects, engine.precision, rounds),
        "gpu": lambda: gpu_tables(models, rounds, compiling=compiling),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["i3d-synthetic", "clstm-synthetic"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--no-compiler", action="store_true", help="leave the compiler out of the section gpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench_masks.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    work = sections(Engine(device="cpu"), options.models, options.rounds, options.clips, compiling=not options.no_compiler)
    found: dict[str, list[Table]] = {}
    for name in options.sections:
        found[name] = work[name]()
        for table in found[name]:
            print(table.markdown(), flush=True)
        # written after each section, so that a run cut short leaves what it has
        figures = {section: [table.to_json() for table in tables] for section, tables in found.items()}
        write(options.out, "What do masks and heat maps cost?", figures)


if __name__ == "__main__":
    main()
