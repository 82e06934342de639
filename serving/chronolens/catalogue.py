"""Which models there are, and the one way to open them: those of a model store and those of plugins."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from chronolens import plugin_names
from chronolens import store as stores
from chronolens.errors import PluginError, UnknownModelError, WeightsError
from chronolens.models.base import VideoNetwork
from chronolens.models.plugged import code_digest, weights_digest
from chronolens.models.weights import WeightsRecord, load_model, read_records
from chronolens.plugin_checks import proven
from chronolens.plugins import OwnModel, build, words

CPU = torch.device("cpu")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plugged:
    own: OwnModel
    record: WeightsRecord
    digest: str


class Catalogue:
    """The models of a store and own models beside them.

    A record of the store may name a plugin in place of a weights file, as archives for model servers do. Such a plugin is imported only
    when it is named or installed here too: a store alone makes nobody run code.

    An installed plugin that nobody named and that fails is left out, with a line in the log: the other models stay usable.

    Args:
        store: folder with ``weights.toml``.
        own: models beside the store; those of all plugins that are named or installed when None.

    Raises:
        WeightsError: the records cannot be read.
        PluginError: a plugin that was named, or a model that was given, does not bring what it has to, or two of them have one name.
    """

    def __init__(self, store: Path, own: Sequence[OwnModel] | None = None) -> None:
        self.store = store
        self._records = read_records(store)
        self._plugged: dict[str, _Plugged] = {}
        for model in own or ():
            self._add("", model)
        for plugin in plugin_names.named() if own is None else ():
            self._bring(plugin)

    def names(self) -> list[str]:
        """Return the names of all models, those of the store first."""
        return list(dict.fromkeys([*self._records, *self._plugged]))

    def digests(self) -> dict[str, str]:
        """Return for each model the digest of all that goes into an artefact of it, see :func:`chronolens.store.digests`."""
        return {**stores.digests(self.store), **{name: one.digest for name, one in self._plugged.items()}}

    def open(self, name: str, device: torch.device = CPU) -> tuple[WeightsRecord, VideoNetwork]:
        """Return one model: its record, and its network in evaluation mode, float32, parameters frozen.

        Raises:
            UnknownModelError: no such model; the error lists what exists.
            WeightsError: its file or its plugin is missing, damaged, or (``weights-changed``) not what the record says.
            PluginError: an own network does not keep what the engine relies on.
        """
        if name not in self.names():
            raise UnknownModelError("no model of that name is served", pointer="/model", allowed=sorted(self.names()))
        record = self._records.get(name)
        if record is not None and record.plugin:
            plugged = self._plugged.get(name) or _recorded(record)
            _require_same(record, plugged.record)
        elif record is not None:
            return record, load_model(record, self.store).to(device)
        else:
            plugged = self._plugged[name]
        return plugged.record, proven(plugged.own, device)

    def _bring(self, plugin: str) -> None:
        before = dict(self._plugged)
        try:
            for model in build(plugin):
                self._add(plugin, model)
        except Exception as error:  # it is somebody else's
            if plugin_names.asked_for(plugin):
                raise
            self._plugged = before
            why = error.detail if isinstance(error, PluginError) else words(error)
            turned_off = f"{plugin_names.VARIABLE}={plugin_names.NONE}"
            _log.warning("the installed plugin %s is left out: %s; %s turns installed plugins off", plugin, why, turned_off)

    def _add(self, plugin: str, own: OwnModel) -> None:
        there = self._records.get(own.name)
        if own.name in self._plugged or (there is not None and (not plugin or there.plugin != plugin)):
            other = self._plugged[own.name].record if own.name in self._plugged else there
            where = other.plugin if other is not None and other.plugin else f"the model store {self.store}"
            raise PluginError(f"the model {own.name} of the plugin {plugin or '(given)'} has the name of one of {where}; rename it")
        self._plugged[own.name] = _plugged(plugin, own)


def open_model(name: str, store: Path) -> tuple[WeightsRecord, VideoNetwork]:
    """Return one model of a store or of a plugin, on the CPU, see :meth:`Catalogue.open`."""
    return Catalogue(store).open(name)


def _plugged(plugin: str, own: OwnModel) -> _Plugged:
    layers = {
        "layers": tuple(own.layers),
        "default_layer": own.default_layer or "",
        "time_first_layers": tuple(sorted(own.time_first_layers)),
    }
    try:
        weights = weights_digest(own.network)
    except PluginError as error:
        raise PluginError(f"the model {own.name}: {error.detail}") from error
    record = WeightsRecord(
        own.name,
        type(own.network).__name__,
        layers,
        own.clip,
        tuple(own.classes),
        own.data_set,
        own.licence,
        f"plugin {plugin}" if plugin else "given in Python",
        sha256=weights,
        metrics=dict(own.metrics),
        warnings=tuple(own.warnings),
        plugin=plugin,
    )
    # all of the record goes into an artefact, and the code of the network too
    facts = {**dataclasses.asdict(record), "code": code_digest(own.network)}
    return _Plugged(own, record, hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest())


def _recorded(record: WeightsRecord) -> _Plugged:
    """Return the own model that a record of the store names."""
    if record.plugin not in plugin_names.named():
        where = f"neither installed nor named in {plugin_names.VARIABLE}"
        raise PluginError(f"the model {record.name} is that of the plugin {record.plugin}, which is {where}")
    models = {own.name: own for own in build(record.plugin)}
    if record.name not in models:
        raise PluginError(f"the plugin {record.plugin} brings no model {record.name}, only {', '.join(models) or 'none'}")
    return _plugged(record.plugin, models[record.name])


def _require_same(recorded: WeightsRecord, found: WeightsRecord) -> None:
    """Raise WeightsError when a plugin brings another model than it did when the record was written."""
    for field in ("sha256", "classes", "clip", "config"):
        if getattr(recorded, field) != getattr(found, field):
            what = {"sha256": "weights", "config": "layers"}.get(field, field)
            raise WeightsError(
                f"the plugin {found.plugin} now brings other {what} for {found.name} than the record says", code="weights-changed"
            )
