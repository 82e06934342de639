"""How much memory a clip needs on its way through a network and back, measured, and how much there is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from chronolens.explain.objective import class_scores
from chronolens.explain.protocol import VideoModel

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def bytes_per_row(model: VideoModel, clip: Tensor, target: int) -> int:
    """Return what one clip (1, C, T, H, W) needs for a forward pass and an input gradient. Costs such a pass.

    On a CUDA device the allocator says so. Elsewhere everything that autograd keeps is added up, each storage once, and as much again as
    the largest of them three times, for what lives only for a moment.
    """
    if clip.device.type == "cuda":
        before = torch.cuda.memory_allocated(clip.device)
        torch.cuda.reset_peak_memory_stats(clip.device)
        _there_and_back(model, clip, target)
        return torch.cuda.max_memory_allocated(clip.device) - before
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        _there_and_back(model, clip, target)
    return sum(kept.values()) + 3 * max(kept.values(), default=0)


def _there_and_back(model: VideoModel, clip: Tensor, target: int) -> None:
    with torch.enable_grad():
        pixels = clip.detach().clone().requires_grad_()
        torch.autograd.grad(class_scores(model, pixels, target).sum(), pixels)


def free_bytes(device: torch.device) -> int:
    """Return how much memory of a device is free now: of the card, or of this machine and of the control group that it grants us."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_available()]
    for limit, used in _LIMITS:
        numbers = [_number(Path(name)) for name in (limit, used)]
        if None not in numbers:
            found.append(max(0, numbers[0] - numbers[1]))  # type: ignore[operator]
    return min(found)


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that there was not enough memory; the CPU's allocator raises a bare RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def _available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines() if Path("/proc/meminfo").is_file() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**30  # not Linux: a gibibyte is there on anything that runs these networks


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group, or "max"
        return None
