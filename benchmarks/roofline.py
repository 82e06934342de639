"""How fast could each layer be on this machine, and how near does it come?

    python benchmarks/roofline.py --models clstm-synthetic --threads 1 --top 12
    python benchmarks/roofline.py --models i3d-224 --rounds 0 --dtype bfloat16 --peak-flops 990e12 --bandwidth 4.8e12

A layer takes at least the longer of two times: its arithmetic at the machine's peak, and its bytes at the memory's bandwidth (Williams
et al. 2009). Both ceilings are what a square matrix product and a triad over arrays larger than the caches reach, or given by hand for
a machine that is not there; ``--rounds 0`` then only counts. Every operation is taken to read its operands from memory and write its
result back. A share of the limit above 1 means that tensors stayed in a cache, or, where arithmetic limits, that a kernel beats
PyTorch's matrix product, as bfloat16 convolutions can. Products are convolutions and matrix products; all else is elementwise. The
input gradient is counted from a backward pass, in the sums only: that of a convolution costs the multiply-accumulates once more.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import write
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from chronolens.models import build_model
from chronolens.models.precision import InBfloat16
from chronolens.models.weights import find_record, load_model
from chronolens.store import default_store

AUTHORS_I3D = "i3d-224"
ELEMENTWISE = "elementwise"
DTYPES = ("float32", "bfloat16")
_aten = torch.ops.aten
# operations that multiply: place of the input, places of weight and bias; an input gradient reads the gradient, not the activations
_OPERANDS: dict[Any, tuple[int, tuple[int, ...]]] = {
    _aten.convolution: (0, (1, 2)),
    _aten.convolution_backward: (0, (2,)),
    _aten.addmm: (1, (2, 0)),
    _aten.mm: (0, (1,)),
}


@dataclass
class Row:
    """Sums over the calls of one operation with the same shapes inside one module; all that multiplies nothing is one row of its module."""

    module: str
    operation: str
    calls: int = 0
    macs: int = 0
    input_bytes: int = 0
    weight_bytes: int = 0
    output_bytes: int = 0
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.input_bytes + self.weight_bytes + self.output_bytes

    @property
    def intensity(self) -> float:
        """FLOP per byte; a multiply-accumulate is two."""
        return 2 * self.macs / max(self.bytes, 1)


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at best: FLOP/s in one number format, and bytes read and written per second."""

    flops: float
    bandwidth: float

    def limit(self, row: Row) -> float:
        """Return the least seconds that a layer can take."""
        return max(2 * row.macs / self.flops, row.bytes / self.bandwidth)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Enters every operation that moves bytes: below autograd, so that backward passes are seen too.

    Attributes:
        rows: by module and operation, in order of first use.
        path: modules that are being run, innermost last.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: dict[tuple[str, str], Row] = {}
        self.path = ["model"]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        began = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - began
        if not func.is_view and func is not _aten._unsafe_view.default:
            self._enter(func.overloadpacket, args, result, seconds)
        return result

    def _enter(self, operation: Any, args: tuple[Any, ...], result: Any, seconds: float) -> None:
        label, macs, inputs, weights = ELEMENTWISE, 0, args, []
        if operation in _OPERANDS:
            first, others = _OPERANDS[operation]
            inputs, weights = (args[first],), [args[place] for place in others]
            label = f"{operation.__name__} {_shape(weights[0])} on {_shape(args[first])}"
            macs = flop_registry[operation](*args, out_val=result) // 2
        row = self.rows.setdefault((self.path[-1], label), Row(self.path[-1], label))
        row.calls += 1
        row.macs += macs
        row.input_bytes += size(inputs)
        row.weight_bytes += size(weights)
        row.output_bytes += size(result)
        row.seconds += seconds

    def step_into(self, name: str, *_: Any) -> None:
        """Enter what follows under a module; a hook."""
        self.path.append(name)

    def step_out(self, *_: Any) -> None:
        """Return to the module around; a hook."""
        self.path.pop()


@contextmanager
def watching(network: nn.Module) -> Iterator[Ledger]:
    """Record what runs inside, by the dotted names of the network's modules; backward passes go to ``model``."""
    ledger = Ledger()
    inner = network.network if isinstance(network, InBfloat16) else network
    hooks = []
    for name, module in inner.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(ledger.step_into, name or "model")))
        hooks.append(module.register_forward_hook(ledger.step_out))
    try:
        with ledger:
            yield ledger
    finally:
        for hook in hooks:
            hook.remove()


def size(values: Any) -> int:
    """Return the bytes of all tensors in nested tuples and lists."""
    return sum(value.numel() * value.element_size() for value in tree_leaves(values) if isinstance(value, Tensor))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def forward(network: nn.Module, clip: Tensor) -> None:
    """Run a pass without gradients."""
    with torch.no_grad():
        network(clip)


def gradient(network: nn.Module, clip: Tensor) -> None:
    """Run a forward pass and the gradient of the logits' sum by the clip."""
    pixels = clip.detach().requires_grad_()
    torch.autograd.grad(network(pixels).sum(), pixels)


PASSES: dict[str, Callable[[nn.Module, Tensor], None]] = {"forward": forward, "forward + input gradient": gradient}


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def count(network: nn.Module, clip: Tensor, work: Callable[[nn.Module, Tensor], None] = forward) -> list[Row]:
    """Return the rows of a pass in order of first use; on the meta device it costs no time.

    Args:
        network: parameters without gradients, as in use.
        clip: (N, C, T, H, W) float32.
    """
    with watching(network) as ledger:
        work(network, clip)
    return list(ledger.rows.values())


def timed(network: nn.Module, clip: Tensor, rounds: int) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """Return median seconds of each row of a forward pass, and of each whole pass without a watch; rounds >= 1, one more warms up."""
    layers: dict[tuple[str, str], list[float]] = {}
    passes: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for row in count(network, clip):
            layers.setdefault((row.module, row.operation), []).append(row.seconds)
        for kind, work in PASSES.items():
            passes.setdefault(kind, []).append(seconds_of(partial(work, network, clip)))
    medians = {key: statistics.median(found[1:]) for key, found in layers.items()}
    return medians, {kind: statistics.median(found[1:]) for kind, found in passes.items()}


def subject(name: str, dtype: str) -> tuple[nn.Module, Tensor]:
    """Return a network in a number format and a random clip (1, 3, T, H, W) float32."""
    if name == AUTHORS_I3D:
        network, shape = build_model("i3d"), (16, 224, 224)
    else:
        record = find_record(default_store(), name)
        network, shape = load_model(record, default_store()), (record.clip.frames, record.clip.height, record.clip.width)
    network.eval().requires_grad_(False)
    return InBfloat16(network) if dtype == "bfloat16" else network, torch.rand(1, 3, *shape)


def measure(name: str, dtype: str, ceilings: Ceilings, rounds: int) -> dict[str, Any]:
    """Return the figures of one model in one number format; times only if there are rounds."""
    network, clip = subject(name, dtype)
    paper, blank = copy.deepcopy(network).to("meta"), clip.to("meta")
    layers, passes = timed(network, clip, rounds) if rounds else ({}, {})
    table = []
    for row in count(paper, blank):
        seconds, limit = layers.get((row.module, row.operation)), ceilings.limit(row)
        by = "compute" if row.intensity > ceilings.flops / ceilings.bandwidth else "memory"
        found = {"seconds": seconds, "limit_s": limit, "limited_by": by, "share": limit / seconds if seconds else None}
        table.append({**asdict(row), "bytes": row.bytes, "flop_per_byte": row.intensity, **found})
    totals = {kind: total(count(paper, blank, work), ceilings, passes.get(kind)) for kind, work in PASSES.items()}
    return {"model": name, "dtype": dtype, "ceilings": asdict(ceilings), "layers": table, "totals": totals}


def total(rows: list[Row], ceilings: Ceilings, seconds: float | None) -> dict[str, Any]:
    """Return sums of a pass; the limit of its products alone is that of a form which fuses everything else into them."""
    limit = sum(map(ceilings.limit, rows))
    products = sum(ceilings.limit(row) for row in rows if row.macs)
    sums = {"macs": sum(row.macs for row in rows), "bytes": sum(row.bytes for row in rows)}
    return {**sums, "limit_s": limit, "limit_of_products_s": products, "seconds": seconds, "share": limit / seconds if seconds else None}


def peak_flops(dtype: str, widths: tuple[int, ...] = (512, 1024, 2048), rounds: int = 8) -> float:
    """Return FLOP/s of a square matrix product, of the best width."""
    found = []
    for width in widths:
        left, right = torch.rand(2, width, width).to(getattr(torch, dtype))
        found.append(2 * width**3 / min(seconds_of(partial(torch.mm, left, right)) for _ in range(rounds)))
    return max(found)


def peak_bandwidth(length: int = 2**27, rounds: int = 5) -> float:
    """Return bytes read and written per second by a triad, c = a + 2 b, over three float32 arrays of ``length`` (512 MiB each)."""
    a, b, c = (torch.ones(length) for _ in range(3))
    return 3 * size(a) / min(seconds_of(partial(torch.add, a, b, alpha=2, out=c)) for _ in range(rounds))


def markdown(found: dict[str, Any], top: int | None) -> str:
    """Return a table of the layers that take longest, by the limit where nothing was measured, and the sums."""
    ceilings = found["ceilings"]
    peaks = f"{ceilings['flops'] / 1e9:.0f} GFLOP/s, {ceilings['bandwidth'] / 1e9:.1f} GB/s"
    lines = [
        f"{found['model']}, {found['dtype']}: {peaks}",
        "",
        "| module | operation | calls | GMAC | MB | FLOP/byte | limit | by | time | share |",
    ]
    lines.append("|" + "---|" * 10)
    for row in sorted(found["layers"], key=lambda row: -(row["seconds"] or row["limit_s"]))[:top]:
        lines.append(f"| {row['module']} | {row['operation']} | {row['calls']} | {_cells(row)} |")
    for kind, sums in found["totals"].items():
        whole = {**sums, "flop_per_byte": 2 * sums["macs"] / sums["bytes"], "limited_by": ""}
        lines.append(f"| **{kind}** | products alone {1e3 * sums['limit_of_products_s']:.3g} ms | | {_cells(whole)} |")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> str:
    measured = f"{1e3 * row['seconds']:.3g} ms | {row['share']:.2f}" if row["seconds"] else "|"
    limit = f"{1e3 * row['limit_s']:.3g} ms | {row['limited_by']}"
    return f"{row['macs'] / 1e9:.3f} | {row['bytes'] / 1e6:.2f} | {row['flop_per_byte']:.1f} | {limit} | {measured}"


def main() -> None:
    """Print a table for each model and number format, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["i3d-synthetic", "clstm-synthetic", AUTHORS_I3D])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="0 counts and measures no layer")
    parser.add_argument("--top", type=int, help="print only so many layers; the file keeps all")
    parser.add_argument("--peak-flops", type=float, nargs="+", help="FLOP/s, one for each --dtype, instead of measuring")
    parser.add_argument("--bandwidth", type=float, help="bytes per second, instead of measuring")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/roofline.json"))
    options = parser.parse_args()
    if options.peak_flops and len(options.peak_flops) != len(options.dtype):
        parser.error("--peak-flops takes one number for each --dtype")
    torch.set_num_threads(options.threads)
    bandwidth = options.bandwidth or peak_bandwidth()
    peaks = options.peak_flops or [peak_flops(dtype) for dtype in options.dtype]
    figures = []
    for name in options.models:
        for dtype, peak in zip(options.dtype, peaks, strict=True):
            figures.append(measure(name, dtype, Ceilings(peak, bandwidth), options.rounds))
            print(f"\n{markdown(figures[-1], options.top)}", flush=True)
    write(options.out, "How near does each layer come to the limits of the machine?", figures)


if __name__ == "__main__":
    main()
