"""Write the measured tables of docs/performance.md anew from the JSON files in benchmarks/results.

    python benchmarks/tables.py

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; whatever stood there is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import preset_table
import roofline
from markdown_table import Table

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BLOCK = re.compile(r"<!-- table (?P<name>[a-z0-9_/.-]+) -->\n.*?<!-- end -->", re.DOTALL)
LAYERS = 6


def presets() -> str:
    """Return the comparison of the presets, one table for each model."""
    parts = []
    for file in sorted(RESULTS.glob("presets*.json")):
        for found in _load(file.name)["figures"]:
            parts.append(f"**{found['model']}**: {found['note']}.\n\n{preset_table.markdown(found['operators'])}")
    return "\n\n".join(parts)


def section(file: str, name: str) -> str:
    """Return the tables of one section of a benchmark that writes tables."""
    return "\n".join(Table(**table).markdown() for table in _load(file)["figures"][name]).rstrip()


def layers(model: str, dtype: str) -> str:
    """Return the roofline of one model."""
    (found,) = (entry for entry in _load("roofline.json")["figures"] if (entry["model"], entry["dtype"]) == (model, dtype))
    return roofline.markdown(found, LAYERS)


def parity() -> str:
    """Return how far imported checkpoints are from their originals."""
    return Table(**_load("import_parity.json")["figures"]).markdown().rstrip()


def machine(file: str) -> str:
    """Return on what the figures of a file were measured."""
    facts = _load(file)["machine"]
    return f"{facts['processor']}, {facts['threads']} thread(s), PyTorch {facts['torch']}, commit {facts['commit']}, {facts['time'][:10]}."


TABLES: dict[str, Callable[..., str]] = {
    "presets": presets,
    "masks": partial(section, "bench_masks.json"),
    "gpu": partial(section, "bench_gpu.json"),
    "serving": partial(section, "bench_serving.json"),
    "layers": layers,
    "parity": parity,
    "machine": machine,
}


def filled(page: str) -> str:
    """Return a page with all its tables written anew."""

    def table(match: re.Match[str]) -> str:
        kind, *arguments = match["name"].split("/")
        return f"<!-- table {match['name']} -->\n{TABLES[kind](*arguments)}\n<!-- end -->"

    return BLOCK.sub(table, page)


def _load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
