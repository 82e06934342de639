"""What does a pass cost in float32 and in bfloat16, and how far apart are the answers?

    python benchmarks/precision.py --threads 1 --out precision.json

Both forms of a network take turns on the same clips, so that whatever else the machine does hits both. Times are medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import write
from torch import Tensor, nn

from chronolens.data.synthetic import make_clip
from chronolens.models.precision import InBfloat16, native_bfloat16
from chronolens.models.weights import default_store, find_record, load_model
from chronolens.video.prepare import prepare


def forward(network: nn.Module, clip: Tensor) -> Tensor:
    """Return softmax scores."""
    with torch.no_grad():
        scores: Tensor = network(clip).softmax(dim=1)
    return scores


def gradient(network: nn.Module, clip: Tensor) -> Tensor:
    """Return the gradient of one score by the clip: a forward pass and an input gradient."""
    pixels = clip.clone().requires_grad_()
    (slope,) = torch.autograd.grad(network(pixels).softmax(dim=1)[0, 0], pixels)
    return slope


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return the figures of one model."""
    record = find_record(default_store(), name)
    network = load_model(record, default_store())
    forms = {"float32": network, "bfloat16": InBfloat16(network)}
    spec = record.clip
    clips = [torch.from_numpy(prepare(make_clip("test", k).render(spec.height, spec.width, spec.frames), spec)) for k in range(4)]
    kinds: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {"forward": forward, "forward + input gradient": gradient}
    seconds: dict[tuple[str, str], list[float]] = {(form, kind): [] for form in forms for kind in kinds}
    for number in range(-1, rounds):  # the first round warms up
        for kind, work in kinds.items():
            for form, model in forms.items():
                began = time.perf_counter()
                work(model, clips[number % len(clips)])
                if number >= 0:
                    seconds[form, kind].append(time.perf_counter() - began)
    apart = max(float((forward(forms["float32"], clip) - forward(forms["bfloat16"], clip)).abs().max()) for clip in clips)
    medians = {kind: {form: statistics.median(seconds[form, kind]) for form in forms} for kind in kinds}
    return {"model": name, "seconds": medians, "largest_difference_of_a_score": apart}


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["i3d-synthetic", "clstm-synthetic"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/precision.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = [measure(name, options.rounds) for name in options.models]
    print(f"bfloat16 {'is' if native_bfloat16(torch.device('cpu')) else 'is not'} native here; {options.threads} thread(s)\n")
    print("| model | pass | float32 | bfloat16 | faster by | scores apart |\n|---|---|---|---|---|---|")
    for found in figures:
        for kind, times in found["seconds"].items():
            ratio = times["float32"] / times["bfloat16"]
            print(
                f"| {found['model']} | {kind} | {times['float32']:.3f} s | {times['bfloat16']:.3f} s | {ratio:.1f}"
                f" | {found['largest_difference_of_a_score']:.4f} |"
            )
    write(options.out, "What does a pass cost in float32 and in bfloat16?", figures)


if __name__ == "__main__":
    main()
