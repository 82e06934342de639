"""How much memory a clip needs on its way through a network and back, measured, and how much there is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from chronolens.explain.protocol import VideoModel

_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_SHORT = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")


def bytes_per_row(model: VideoModel, clip: Tensor) -> int:
    """Return what one clip (1, C, T, H, W) needs for a forward pass and an input gradient. Costs such a pass.

    On a CUDA device the allocator says so. Elsewhere everything that autograd keeps is added up, each storage once, and as much again as
    the largest of them three times, for what lives only for a moment.
    """
    if clip.device.type == "cuda":
        before = torch.cuda.memory_allocated(clip.device)
        torch.cuda.reset_peak_memory_stats(clip.device)
        _there_and_back(model, clip)
        return torch.cuda.max_memory_allocated(clip.device) - before
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value.detach()  # handed back as it is, it would hold its own graph, a cycle that nobody collects

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        _there_and_back(model, clip)
    return sum(kept.values()) + 3 * max(kept.values(), default=0)


def _there_and_back(model: VideoModel, clip: Tensor) -> None:
    with torch.enable_grad():
        pixels = clip.detach().clone().requires_grad_()
        torch.autograd.grad(model(pixels).sum(), pixels)


def free_bytes(device: torch.device) -> int:
    """Return how much memory of a device is free now: of the card, or of this machine and of the control group that it grants us."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_available()]
    for folder, most, now in _GROUPS:
        limit, used = (_number(Path(folder, name)) for name in (most, now))
        if limit is not None and used is not None:
            found.append(max(0, limit - used + _field(Path(folder, "memory.stat"), "inactive_file")))  # the kernel gives that back
    return min(found)


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that there was not enough memory; the CPU's allocator raises a bare RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _SHORT)


def _available() -> int:
    # not Linux: a gibibyte is there on anything that runs these networks
    return _field(Path("/proc/meminfo"), "MemAvailable:") * 1024 or 2**30


def _field(path: Path, name: str) -> int:
    """Return the number after a name in a file of names and numbers, 0 where there is none."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return 0
    return next((int(words[1]) for words in lines if words[0] == name), 0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group, or "max"
        return None
