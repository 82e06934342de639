"""Do imported public checkpoints compute what their original code computes?

    python benchmarks/import_parity.py
    python benchmarks/import_parity.py --pytorchvideo pytorchvideo-env/bin/python

For each dialect a checkpoint of random tensors in its layout is imported, and our answer is held against a second derivation from the
published code (``tests/importing/parity_*.py``). The last column is the distance of the nearest wrong original: one fact of the
derivation changed, such as the epsilon of the normalisations or the direction of the shift. With the interpreter of an environment that
has PyTorchVideo (``tests/optional/test_pytorchvideo.py`` says how to make one), that package itself is asked as well, both ways.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import write
from markdown_table import Table
from torch import Tensor

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.importing.parity_cases import CASES  # noqa: E402
from tests.optional.pytorchvideo_exchange import exchange  # noqa: E402


def derived() -> Iterator[Row]:
    """Compare with the second derivations."""
    for name, make in CASES.items():
        case = make()
        ours = case.ours()
        gap, wrong = case.gap(ours), case.distances(ours)
        nearest = min(wrong, key=wrong.__getitem__)
        variant = name.removeprefix(case.dialect).strip(", ")
        yield _row(case.dialect, variant, case.clip, len(case.state), gap.logits, gap.scores, nearest, wrong[nearest])


def pytorchvideo(python: str) -> Iterator[Row]:
    """Compare with PyTorchVideo itself, which an interpreter of another environment has."""
    asked = [python, "-c", "from importlib.metadata import version; print(version('pytorchvideo'))"]
    package = f"PyTorchVideo {subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()}"
    with tempfile.TemporaryDirectory() as folder:
        for name, both in exchange(python, Path(folder)).items():
            wrong = "the other rule for slow frames", both.their_weights_in_ours(slow_frames="stride")
            directions = {"its weights in ours": both.their_weights_in_ours(), "our weights in it": both.our_weights_in_theirs()}
            for direction, difference in directions.items():
                yield _row(package, f"{name}; {direction}", both.clip, len(both.their_state), difference, None, *wrong)


def _row(dialect: str, variant: str, clip: Tensor, keys: int, logits: float, scores: float | None, wrong: str, distance: float) -> Row:
    return {
        "dialect": dialect,
        "variant": variant or None,
        "clip": " x ".join(map(str, clip.shape)),
        "keys": keys,
        "logits_differ_by": logits,
        "scores_differ_by": scores,
        "nearest_wrong_original": wrong,
        "its_logits_differ_by": distance,
    }


def main() -> None:
    """Print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytorchvideo", help="an interpreter that has PyTorchVideo")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/import_parity.json")
    options = parser.parse_args()
    rows = list(derived())
    if options.pytorchvideo:
        rows += pytorchvideo(options.pytorchvideo)
    table = Table("Imported checkpoints against their originals: greatest differences", rows)
    print(table.markdown())
    write(options.out, "Do imported public checkpoints compute what their original code computes?", table.to_json())


if __name__ == "__main__":
    main()
