"""Own models: any ``nn.Module`` with what it has to be told along, see docs/own-model.md.

    def build() -> OwnModel:
        return OwnModel("my-model", network, ClipSpec(16, 112, 112), ("up", "down"), layers=("conv1", "conv2"))

``chronolens serve --plugin my_module:build`` serves it beside the shipped ones.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from chronolens.clips import ClipSpec
from chronolens.errors import PluginError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = ("default", "all")


@dataclass(frozen=True)
class OwnModel:
    """A network with all that serving it needs.

    Args:
        name: what callers ask for: letters, digits, dot, dash and underscore, at most 100.
        network: takes prepared clips (N, 3, T, H, W) float32 and returns logits (N, K), before softmax. It is put into evaluation mode and
            its parameters are frozen. A row must not depend on the other rows, and logits must have a gradient by the clip.
        clip: how clips are sampled, sized and normalised.
        classes: the K labels, in index order.
        layers: dotted names of the modules, as in ``network.named_modules()``, that Grad-CAM may map: they run once and return
            (N, C, T', H', W'); none is called ``default`` or ``all``. Their cells are taken to divide the clip evenly. Without layers
            there are no heat maps. A
            :class:`chronolens.models.base.VideoNetwork` names its own layers, and where their cells lie.
        default_layer: mapped unless the caller names another; the last of ``layers`` when None.
        time_first_layers: those of ``layers`` that return (N, T', C, H', W').
        data_set, licence: what it was trained on, and the SPDX identifier of the weights.
        metrics: figures on a test split.
        warnings: sentences that go with every answer of this model.

    Raises:
        PluginError: an argument is not what it has to be.
    """

    name: str
    network: nn.Module
    clip: ClipSpec
    classes: Sequence[str]
    layers: Sequence[str] = ()
    default_layer: str | None = None
    time_first_layers: Collection[str] = ()
    data_set: str = "not stated"
    licence: str = "not stated"
    metrics: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise PluginError(f"a model's name has letters, digits, dot, dash and underscore, at most 100, unlike {str(self.name)[:120]!r}")
        if not isinstance(self.network, nn.Module):
            raise self._wrong(f"its network is a {type(self.network).__name__}, not a torch.nn.Module")
        if not isinstance(self.clip, ClipSpec):
            raise self._wrong(f"its clip is a {type(self.clip).__name__}, not a chronolens.clips.ClipSpec")
        for given, what in ((self.classes, "classes"), (self.layers, "layers"), (self.warnings, "warnings")):
            if isinstance(given, str) or not all(isinstance(word, str) and word for word in given):
                raise self._wrong(f"its {what} are not a sequence of words")
            if len(set(given)) != len(given):
                raise self._wrong(f"one of its {what} comes twice")
        for layer in self.layers:
            if layer in _RESERVED:
                raise self._wrong(
                    f"its layer {layer!r} has a name that has a meaning of its own where layers are chosen; rename the module"
                )
        if len(self.classes) < 2:
            raise self._wrong("it has fewer than two classes")
        for layer in (*self.time_first_layers, *(() if self.default_layer is None else (self.default_layer,))):
            if layer not in self.layers:
                raise self._wrong(f"{layer!r} is not among its layers {', '.join(self.layers) or '(it names none)'}")
        if not all(type(value) in (int, float) for value in self.metrics.values()):
            raise self._wrong("its metrics are not all numbers")

    def _wrong(self, what: str) -> PluginError:
        return PluginError(f"the model {self.name}: {what}")


def build(plugin: str) -> list[OwnModel]:
    """Import a plugin and return the models that it brings.

    Args:
        plugin: ``module:function``; the function takes no argument and returns one :class:`OwnModel` or a list of them.

    Raises:
        PluginError: the module cannot be imported, has no such function, the function fails, returns something else, or one of the two
            ends the program (``sys.exit``, or ``argparse`` that reads the arguments of ours).
    """
    name, _, function = plugin.partition(":")
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise PluginError(f"the plugin {plugin} cannot be imported: {words(error)}") from error
    maker = getattr(module, function, None)
    if not callable(maker):
        raise PluginError(f"the plugin {plugin}: the module {name} has no function {function}")
    try:
        made = maker()
    except PluginError as error:
        raise PluginError(f"the plugin {plugin}: {error.detail}") from error
    except (Exception, SystemExit) as error:  # it is somebody else's
        raise PluginError(f"the plugin {plugin} failed: {words(error)}") from error
    models = list(made) if isinstance(made, list | tuple) else [made]
    for model in models:
        if not isinstance(model, OwnModel):
            raise PluginError(f"the plugin {plugin} returned a {type(model).__name__}, not a chronolens.plugins.OwnModel or a list of them")
    return models


def words(error: BaseException) -> str:
    """Return in one line what somebody else's code raised; SystemExit with what may have raised it."""
    if isinstance(error, SystemExit):
        return f"SystemExit: {str(error)[:300]}; it ends the program, is there sys.exit or argparse.parse_args in it?"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
