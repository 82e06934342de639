"""Trained weights: one safetensors file and one record in ``weights.toml`` each; what is served is never unpickled.

The record says everything that a result must be able to tell: architecture and its options, clip preparation, classes, digest,
licence, data and figures. Of weights that we trained, tensors with two or more axes are stored as float16, the small rest (biases,
BatchNorm) as float32. Imported weights are stored as float32, which keeps every bit of float16, bfloat16 and float32; float64 is rounded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from chronolens.clips import ClipSpec
from chronolens.errors import UnknownModelError, WeightsError
from chronolens.models.base import VideoNetwork
from chronolens.models.registry import build_model
from chronolens.store import PUBLIC, RECORDS, replace_file


@dataclass(frozen=True)
class WeightsRecord:
    """One set of trained weights.

    Args:
        name: what callers ask for, such as ``i3d-synthetic``.
        architecture: key of :func:`chronolens.models.build_model`.
        config: options of the architecture, ``num_classes`` included.
        clip: how clips are sampled, sized and normalised.
        classes: labels in index order.
        data_set: what it was trained on.
        licence: SPDX identifier.
        source: where it comes from, or the command that trained it.
        file, sha256: the safetensors file beside the record, and its digest.
        metrics: figures on the test split.
        warnings: sentences that go with every answer of this model.
        plugin: function that brings the network in place of a file, see :mod:`chronolens.plugins`; ``sha256`` is then that of its tensors.
    """

    name: str
    architecture: str
    config: dict[str, Any]
    clip: ClipSpec
    classes: tuple[str, ...]
    data_set: str
    licence: str
    source: str
    file: str = ""
    sha256: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    plugin: str = ""


def read_records(store: Path) -> dict[str, WeightsRecord]:
    """Return the records of a store by name; empty when it has none.

    Raises:
        WeightsError: the file does not parse or a record lacks a field.
    """
    path = store / RECORDS
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _from_table(name, table) for name, table in tables.items() if name != PUBLIC}
    except (tomllib.TOMLDecodeError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"the weights records cannot be read: {error}") from error


def find_record(store: Path, name: str) -> WeightsRecord:
    """Return one record.

    Raises:
        UnknownModelError: no such weights; the error lists what exists.
    """
    records = read_records(store)
    if name not in records:
        raise UnknownModelError("no model of that name is served", pointer="/model", allowed=sorted(records))
    return records[name]


def load_model(record: WeightsRecord, store: Path) -> VideoNetwork:
    """Return the trained network in evaluation mode, float32, parameters frozen.

    Raises:
        WeightsError: file missing, wrong digest, or keys and shapes that do not fit.
    """
    path = store / record.file
    if not path.is_file():
        raise WeightsError(f"the weights file of {record.name} is missing")
    body = path.read_bytes()
    if hashlib.sha256(body).hexdigest() != record.sha256:
        raise WeightsError(f"the weights file of {record.name} does not have the recorded digest")
    model = build_model(record.architecture, **record.config)
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_tensors(body).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"the weights of {record.name} do not fit the architecture: {error}") from error
    model.eval().requires_grad_(False)
    return model


def save_weights(model: nn.Module, record: WeightsRecord, store: Path, *, exact: bool = False) -> WeightsRecord:
    """Write ``NAME.safetensors`` and the record into ``store``; return the record with file and digest filled in.

    Args:
        exact: keep every tensor as it is, instead of storing the large ones as float16.
    """
    store.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    body = save_tensors(tensors if exact else {key: _compact(value) for key, value in tensors.items()})
    complete = dataclasses.replace(record, file=f"{record.name}.safetensors", sha256=hashlib.sha256(body).hexdigest())
    replace_file(store / complete.file, body)
    write_record(complete, store)
    return complete


def write_record(record: WeightsRecord, store: Path) -> None:
    """Add or replace one record in ``weights.toml``; all else in it stays as it is.

    Raises:
        WeightsError: the records that are there cannot be read.
    """
    read_records(store)  # whatever cannot be read would be lost
    path = store / RECORDS
    tables = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tables[record.name] = _to_table(record)
    replace_file(path, tomli_w.dumps(tables).encode())


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() and tensor.ndim >= 2 else tensor


def _to_table(record: WeightsRecord) -> dict[str, Any]:
    table = dataclasses.asdict(record)
    del table["name"]
    return table


def _from_table(name: str, table: Mapping[str, Any]) -> WeightsRecord:
    values = dict(table)
    clip: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.pop("clip").items()}
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in values.pop("config").items()}
    for key in ("classes", "warnings"):
        values[key] = tuple(values.get(key, ()))
    return WeightsRecord(name=name, clip=ClipSpec(**clip), config=config, **values)
