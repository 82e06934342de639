"""What does the way to the engine cost: gateway and transport against the bare call, for a network of a few milliseconds?

    OMP_NUM_THREADS=1 python benchmarks/bench_serving.py
    python benchmarks/bench_serving.py --engines local torchserve --quick

One whole service (gateway, runner, engine) for each engine, all running at once, but only one asked at a time; in every round each has its
turn, so that whatever else the machine does hits all of them. Sections: ``way`` (one prediction at a time: the bare call, the hop, HTTP),
``slices`` (one slice of a mask), ``load`` (requests at the same time, and how many share a batch). An engine that is not installed is left
out, and the table says why.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import write
from markdown_table import Table
from section_load import load_tables
from section_way import slice_tables, way_tables
from tiny_services import ENGINES, SIZE, Service, services, unusable


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds, requests of an engine in each, and those of the rounds under load."""

    rounds: int
    repeats: int
    load_rounds: int
    load_requests: int


THOROUGH = Effort(10, 50, 1, 48)
QUICK = Effort(1, 3, 1, 16)


def sections(running: Sequence[Service], effort: Effort) -> dict[str, Callable[[], list[Table]]]:
    """Return the work of each section."""
    return {
        "way": lambda: way_tables(running, effort.rounds, effort.repeats),
        "slices": lambda: slice_tables(running, effort.rounds, effort.repeats),
        "load": lambda: load_tables(running, effort.load_rounds, effort.load_requests),
    }


def engines_table(running: Sequence[Service], left_out: dict[str, str]) -> Table:
    """Return which engines are measured, and why others are not."""
    rows = [{"engine": one.name, "server": one.server, "start_s": one.started_s, "not_measured": None} for one in running]
    rows += [{"engine": name, "server": None, "start_s": None, "not_measured": reason} for name, reason in left_out.items()]
    size = "x".join(map(str, SIZE))
    note = f"An untrained C-LSTM, 4 hidden channels, clips of {size}, one thread for each network. start: the export of the model included."
    return Table("Engines", rows, [note])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--quick", action="store_true", help="a few requests, to see that it runs")
    parser.add_argument("--sections", nargs="+", choices=("way", "slices", "load"), default=["way", "slices", "load"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench_serving.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    left_out = {name: reason for name in options.engines if (reason := unusable(name))}
    usable = [name for name in options.engines if name not in left_out]
    with tempfile.TemporaryDirectory(prefix="chronolens-serving-") as folder, services(usable, Path(folder)) as running:
        measured = sections(running, QUICK if options.quick else THOROUGH)
        work = {"engines": lambda: [engines_table(running, left_out)], **{name: measured[name] for name in options.sections}}
        found: dict[str, list[Table]] = {}
        for name, measure in work.items():
            found[name] = measure()
            for table in found[name]:
                print(table.markdown(), flush=True)
            # written after each section, so that a run cut short leaves what it has
            figures = {section: [table.to_json() for table in tables] for section, tables in found.items()}
            write(options.out, "What does the way to the engine cost?", figures)


if __name__ == "__main__":
    main()
