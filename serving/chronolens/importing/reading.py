"""Reads a checkpoint into tensors by name: torch files, safetensors, caffe2 pickles. No code in a file is ever run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import MAGIC_NUMBER, safe_globals

from chronolens.errors import WeightsError
from chronolens.importing.caffe2_pickle import read_blobs
from chronolens.importing.wording import plain

LARGEST = 4 * 2**30
"""Bytes of a file, packed or unpacked, and of its tensors, above which it is not taken; the largest network here has 140 MB."""
CONTAINERS = ("model_state", "state_dict")
"""Keys under which trainers keep the tensors: PySlowFast and PyTorchVideo; TSM, MMAction2 and the authors."""

_OLD_TORCH = pickle.dumps(MAGIC_NUMBER, protocol=2)
_REFUSED = re.compile(r"GLOBAL ([\w.]+)|Can only build Tensor.*?but got ([^\n]+)")
_STRANGERS = {
    b"<": "a page, not weights; the address may ask for a login",
    b"version https://git-lfs": "a Git LFS pointer, not the file that it points to",
    b"\x1f\x8b": "packed with gzip; unpack it first",
    b"\x89HDF": "HDF5, which no known dialect uses",
}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, as they are in it, names not changed.

    Args:
        path: a torch file (of any age), safetensors, or a caffe2 model-zoo pickle; told by its content.

    Raises:
        WeightsError: too large, of an unknown kind, damaged, without tensors, with objects that weights do not need, or with tensors that
            are sparse, quantised, nested or hold no numbers.
    """
    if not path.is_file():
        raise WeightsError("there is no such file")
    if path.stat().st_size > LARGEST:
        raise WeightsError("the file is larger than any known checkpoint", limit=LARGEST, observed=path.stat().st_size)
    with path.open("rb") as stream:
        head = stream.read(64)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        tensors = _read_safetensors(path)
    elif head.startswith((b"PK\x03\x04", _OLD_TORCH)):
        tensors = _named(_read_torch(path))
    elif head.startswith((b"\x80", b"(", b"}")):
        tensors = read_blobs(path, LARGEST)
    else:
        known = next((what for start, what in _STRANGERS.items() if head.lstrip().startswith(start)), "of an unknown kind")
        raise WeightsError(f"the file is {known}")
    if not tensors:
        raise WeightsError("the file holds no tensors")
    for name, tensor in tensors.items():
        _check_kind(name, tensor)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > LARGEST:  # a tensor can repeat one stored number along an axis
        raise WeightsError("the tensors are larger than any known checkpoint", limit=LARGEST, observed=size)
    return tensors


def _check_kind(name: str, tensor: Tensor) -> None:
    if tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided:
        raise WeightsError(f"the tensor {plain(name)} is sparse, quantised or nested, which no known checkpoint uses")
    if tensor.device.type != "cpu":
        raise WeightsError(f"the tensor {plain(name)} has a shape and no numbers")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"the safetensors file cannot be read: {plain(str(error))}") from error


def _read_torch(path: Path) -> Any:
    _check_unpacked_size(path)
    try:
        with safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _REFUSED.search(str(error))
        what = next(filter(None, found.groups()), None) if found else None
        told = f"asks for {plain(what)}, which no weights need" if what else "is damaged or asks for more than tensors"
        raise WeightsError(f"the torch file {told}; nothing of it was run") from error
    except Exception as error:  # a damaged file may raise anything; none of it is more than "cannot be read"
        raise WeightsError(f"the torch file cannot be read: {type(error).__name__}") from error


def _check_unpacked_size(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > LARGEST:
        raise WeightsError("the file unpacks to more than any known checkpoint", limit=LARGEST, observed=unpacked)


class _Ignored:
    """Stands in for records of training that lie beside the weights: it takes whatever it is given and keeps nothing."""

    def __init__(self, *_args: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _harmless() -> list[Any]:
    """Return what torch may make of a file beside tensors: numpy's numbers, and stand-ins for known records of training."""
    kinds = [getattr(np.dtypes, name) for name in np.dtypes.__all__ if name.endswith("DType") and not name.startswith(("Object", "Void"))]
    parts = [(multiarray.scalar, "scalar"), (multiarray._reconstruct, "_reconstruct")]
    numbers = [(made, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for made, name in parts]
    return [np.dtype, np.ndarray, *kinds, *numbers, (_Ignored, "mmengine.logging.history_buffer.HistoryBuffer")]


def _named(content: Any) -> dict[str, Tensor]:
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(f"the file holds a {type(content).__name__}, not tensors by name")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(f"the file holds more than tensors: {', '.join(map(plain, strangers[:5]))}")
    return {str(name): value.detach() for name, value in content.items()}
