"""One dialect's facts, and the check that a file has every tensor of the network, in its shape, and no other.

A dialect says how *our* names read in the file. Every name of the network is known once its options are, so both directions of the
check follow: a name that the file lacks is missing, a name of the file that none of ours reads as is left over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from chronolens.errors import OptionsError, WeightsError
from chronolens.importing.wording import plain
from chronolens.models.registry import build_model

COUNTER = "num_batches_tracked"
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What may become float32: the first three exactly, the last rounded."""
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
SHOWN = 5
"""How many names an error lists of each kind."""

Spelling = Callable[[str], str]


class Lookup:
    """The tensors of a file by our names."""

    def __init__(self, tensors: Mapping[str, Tensor], spell: Spelling) -> None:
        self.tensors = tensors
        self.spell = spell

    def size(self, name: str, axis: int, default: int) -> int:
        """Return a size of one tensor; the default where it is absent, since the check will name it as missing."""
        tensor = self.tensors.get(self.spell(name))
        return default if tensor is None or tensor.ndim <= axis else tensor.shape[axis]

    def has(self, name: str) -> bool:
        return self.spell(name) in self.tensors


@dataclass(frozen=True)
class Translation:
    """One dialect.

    Args:
        dialect: its name.
        architecture: key of :func:`chronolens.models.build_model`.
        spell: our name of a tensor to the file's.
        configure: options of the architecture that the file shows; those given by the caller come with it and win.
        begins: beginnings of names that only this dialect has; one suffices to recognise it.
        ignored: endings of the names of what trainers leave in a file beside the weights.
        flat: spatial kernels lack the axis of time, (O, I, h, w).
    """

    dialect: str
    architecture: str
    spell: Spelling
    configure: Callable[[Lookup, Mapping[str, Any]], dict[str, Any]]
    begins: tuple[str, ...]
    ignored: tuple[str, ...] = field(default=())
    flat: bool = False

    def options(self, tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the architecture.

        Raises:
            OptionsError: a given option has a type or value with which nothing can be derived.
            WeightsError: the file is of a network that the architecture cannot be, or does not tell which.
        """
        try:
            return {**self.configure(Lookup(tensors, self.spell), given), **given}
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise OptionsError(f"the options {dict(given)} do not go with {self.architecture}: {error}", pointer="/config") from error

    def state(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors by our names, in the shapes of the network.

        Raises:
            OptionsError: the architecture does not take the options.
            WeightsError: missing, left-over or misshapen tensors, the first few of each by name; or numbers that a network does not take.
        """
        expected = network_shapes(self.architecture, config)
        spelled = {name: self.spell(name) for name in expected}
        missing = [theirs for name, theirs in spelled.items() if theirs not in tensors and not name.endswith(COUNTER)]
        taken = set(spelled.values())
        left_over = [name for name in tensors if name not in taken and not name.endswith(self.ignored)]
        found = {name: self._shaped(tensors[theirs], len(expected[name])) for name, theirs in spelled.items() if theirs in tensors}
        misshapen = [
            f"{spelled[name]} is {tuple(tensors[spelled[name]].shape)}, expected {expected[name]}"
            for name, tensor in found.items()
            if tuple(tensor.shape) != expected[name]
        ]
        if missing or left_over or misshapen:
            told = [listed("missing", missing), listed("left over", left_over), listed("of another shape", misshapen)]
            raise WeightsError(f"the file is no {self.dialect} checkpoint of {self.architecture}: {'; '.join(filter(None, told))}")
        for name, tensor in found.items():
            _check_numbers(name, spelled[name], tensor)
        for name in expected.keys() - found.keys():
            found[name] = torch.zeros((), dtype=torch.int64)  # old files have no counter of batches; evaluation never reads it
        return {name: found[name] for name in expected}

    def _shaped(self, tensor: Tensor, axes: int) -> Tensor:
        if self.flat and tensor.ndim == 4 and axes == 5:
            return tensor.unsqueeze(2)
        if axes == 0 and tensor.numel() == 1:
            return tensor.reshape(())
        while tensor.ndim > axes and tensor.shape[-1] == 1:  # a classifier kept as a 1 x 1 x 1 convolution
            tensor = tensor.squeeze(-1)
        return tensor


def network_shapes(architecture: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a network; nothing is allocated.

    Raises:
        OptionsError: an option that the architecture does not have, or with a value that it refuses.
        WeightsError: there is no such network.
    """
    try:
        with torch.device("meta"):
            model = build_model(architecture, **config)
    except (RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"the file describes no {architecture} network ({dict(config)}): {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_numbers(name: str, theirs: str, tensor: Tensor) -> None:
    """Refuse numbers with which the network would not be the one in the file, or could not answer."""
    if tensor.dtype not in (INTEGER if name.endswith(COUNTER) else FLOATING):
        raise WeightsError(f"{plain(theirs)} holds {str(tensor.dtype).removeprefix('torch.')}, which cannot be kept")
    if not torch.isfinite(tensor.float()).all():
        raise WeightsError(f"{plain(theirs)} holds NaN, infinity, or numbers that are too large for float32")
    if name.endswith("running_var") and (tensor < 0).any():
        raise WeightsError(f"{plain(theirs)} holds negative variances")


def listed(what: str, names: Iterable[str]) -> str:
    """Return ``3 missing: a, b, ...``, or nothing; the names as :func:`plain` shows them."""
    found = list(names)
    rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} {what}: {', '.join(map(plain, found[:SHOWN]))}{rest}" if found else ""
