"""Explain every video of a folder: one CSV row and one panel a clip.

    python examples/explain_folder.py CLIPS --out explained --model i3d-synthetic

Works in this process; give ``--url`` to send the clips to a running service instead. A clip that cannot be explained gets a row with
its error.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.progress import track

from chronolens.client import Client
from chronolens.errors import ChronolensError

SUFFIXES = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"}
COLUMNS = (
    "file", "error", "label", "score", "freeze_score", "reverse_score", "reverse_learned_score", "drop_ratio", "drop_difference",
    "freeze_length", "freeze_segments", "freeze_converged", "freeze_p_value", "reverse_length", "reverse_segments", "blobs_per_frame",
    "frames", "passes", "seconds", "weights",
)  # fmt: skip
Explain = Callable[[Path, Path], dict[str, Any]]


def row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return one line of the table."""
    masks, scores, drop = result["masks"], result["scores"], result["drop"]

    def spans(operator: str) -> str:
        return " ".join(f"{part['start_s']:.2f}-{part['end_s']:.2f}" for part in masks[operator]["segments"])

    return {
        "file": name,
        "label": result["predictions"][0]["label"],
        "score": scores["original"],
        "freeze_score": scores["freeze"],
        "reverse_score": scores["reverse"],
        "reverse_learned_score": scores["reverse_learned"],
        "drop_ratio": drop["ratio"],
        "drop_difference": drop["difference"],
        "freeze_length": masks["freeze"]["length"],
        "freeze_segments": spans("freeze"),
        "freeze_converged": masks["freeze"]["converged"],
        "freeze_p_value": masks["freeze"]["better_than_chance"]["p_value"],
        "reverse_length": masks["reverse"]["length"],
        "reverse_segments": spans("reverse"),
        "blobs_per_frame": result["gradcam"][0]["blobs"]["count_per_frame"],
        "frames": result["clip"]["frames"],
        "passes": result["passes"]["total"],
        "seconds": round(result["timing_s"]["total"], 2),
        "weights": result["weights"][:12],
    }


def in_process(model: str, mask: dict[str, Any]) -> Explain:
    """Return a function that explains a clip here, with the model loaded once."""
    from chronolens.engine import Engine
    from chronolens.local import explain

    engine = Engine()

    def run(clip: Path, panel: Path) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            result = explain(clip, out=folder, engine=engine, model=model, mask=mask, artefacts=["panel.mp4"])
            panel.write_bytes((Path(folder) / "panel.mp4").read_bytes())
        return result.model_dump(mode="json")

    return run


def over_http(url: str, model: str, mask: dict[str, Any]) -> Explain:
    """Return a function that sends a clip to a service."""
    client = Client(url)

    def run(clip: Path, panel: Path) -> dict[str, Any]:
        result = client.explain(clip, model=model, mask=mask, artefacts=["panel.mp4"])
        with tempfile.TemporaryDirectory() as folder:
            panel.write_bytes(client.download(result["artefacts"][0], Path(folder)).read_bytes())
        return result

    return run


def explain_all(clips: Iterable[Path], root: Path, out: Path, explain: Explain) -> int:
    """Write ``table.csv`` and ``panels/``; return how many clips failed."""
    (out / "panels").mkdir(parents=True, exist_ok=True)
    failed = 0
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for clip in clips:
            name = str(clip.relative_to(root))
            panel = out / "panels" / (name.replace("/", "__") + ".mp4")
            try:
                table.writerow(row(name, explain(clip, panel)))
            except ChronolensError as error:
                failed += 1
                table.writerow({"file": name, "error": f"{error.code}: {error.detail}"})
            file.flush()
    return failed


def main() -> None:
    """Run from the command line; the exit status is 1 when a clip failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder with video files, searched with its sub-folders")
    parser.add_argument("--out", type=Path, default=Path("explained"))
    parser.add_argument("--model", default="i3d-synthetic")
    parser.add_argument("--mask-preset", default="default")
    parser.add_argument("--steps", type=int, default=None, help="optimiser steps a mask; the preset's own when left out")
    parser.add_argument("--url", default=None, help="a running service")
    parser.add_argument("--limit", type=int, default=None, help="take at most so many clips of each sub-folder")
    options = parser.parse_args()
    found = sorted(path for path in options.clips.rglob("*") if path.suffix.lower() in SUFFIXES)
    taken = [path for path in found if options.limit is None or siblings_before(path, found) < options.limit]
    mask = {"preset": options.mask_preset} | ({} if options.steps is None else {"steps": options.steps})
    make = over_http(options.url, options.model, mask) if options.url else in_process(options.model, mask)
    failed = explain_all(track(taken, description="explaining"), options.clips, options.out, make)
    print(f"{len(taken) - failed} of {len(taken)} clips explained, table and panels in {options.out}/")
    raise SystemExit(1 if failed else 0)


def siblings_before(path: Path, found: list[Path]) -> int:
    """Return how many files of the same folder come before this one."""
    return sum(other.parent == path.parent for other in found[: found.index(path)])


if __name__ == "__main__":
    main()
