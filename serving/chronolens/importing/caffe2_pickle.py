"""Reads a caffe2 model-zoo pickle with an unpickler that can make numpy arrays and nothing else."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chronolens.errors import WeightsError
from chronolens.importing.wording import plain

Array = npt.NDArray[Any]
_LATIN = ("latin1", "latin-1", "iso-8859-1")


def read_blobs(path: Path, limit: int) -> dict[str, Tensor]:
    """Return the arrays of a pickle ``{"blobs": {name: array}}``, or of a plain ``{name: array}``.

    Args:
        path: a file pickled by Python 2 or 3, as PySlowFast's model zoo has them.
        limit: bytes of all arrays together; a pickle can claim more than it holds.

    Raises:
        WeightsError: the pickle asks for anything but numpy arrays (nothing of it is run), is damaged, too large, or holds no arrays.
    """
    with path.open("rb") as stream:
        try:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
        except WeightsError:
            raise
        except Exception as error:  # a damaged pickle may raise anything; none of it is more than "cannot be read"
            raise WeightsError(f"the pickle cannot be read: {type(error).__name__}") from error
    blobs = content.get("blobs", content) if isinstance(content, dict) else None
    if not isinstance(blobs, dict):
        raise WeightsError("the pickle holds no blobs")
    arrays = {str(name): value for name, value in blobs.items() if isinstance(value, np.ndarray)}
    size = sum(array.nbytes for array in arrays.values())
    if size > limit:
        raise WeightsError("the arrays are larger than any known checkpoint", limit=limit, observed=size)
    return {name: _tensor(name, array) for name, array in arrays.items()}


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise WeightsError(f"the blob {plain(name)} is no array of numbers")
    try:
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except TypeError as error:  # numpy's long doubles
        raise WeightsError(f"the blob {plain(name)} is of {array.dtype}, which no network takes") from error


def _empty(kind: object, shape: object, _dtype: object) -> Array:
    """Stand in for numpy's ``_reconstruct``: real pickles make an empty array first; any other shape would only claim memory."""
    if kind is not np.ndarray or shape != (0,):
        raise WeightsError("the pickle makes arrays in a way that numpy does not")
    return np.ndarray((0,), dtype=np.int8)


def _bytes(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for ``codecs.encode``, with which Python 3 pickles bytes for Python 2; other codecs are not looked up."""
    if encoding.lower() not in _LATIN:
        raise WeightsError(f"the pickle asks for the codec {plain(encoding)}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _buffer(body: Any, kind: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]) -> Array:
    """Stand in for numpy's ``_frombuffer``, which pickles of protocol 5 use; the numbers lie in the file, so their size is bounded."""
    return np.frombuffer(body, dtype=kind).reshape(shape, order=order)


def _scalar(kind: np.dtype[Any], data: bytes | str = b"") -> Any:
    body = data.encode("latin1") if isinstance(data, str) else data
    if kind.kind not in "fiub":
        raise WeightsError("the pickle holds a scalar that is no number")
    return np.frombuffer(body, dtype=kind, count=1)[0]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("__builtin__", "bytes"): _no_bytes,  # how Python 3 pickles an empty array for Python 2
    **{(f"numpy.{core}.numeric", "_frombuffer"): _buffer for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise WeightsError(f"the pickle asks for {plain(module)}.{plain(name)}, which no weights need; nothing of it was run")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: object) -> Any:
        raise WeightsError("the pickle refers to something outside the file")
