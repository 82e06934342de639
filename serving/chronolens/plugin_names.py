"""Which functions bring own models: their names only, nothing is imported. No torch: the gateway and the launchers ask it too.

A function is written ``module:function``. It is named in the variable ``CHRONOLENS_PLUGINS`` (commas between several; ``--plugin`` adds
to it), or by an installed distribution in the entry-point group ``chronolens.models``. Code that is neither never runs. ``none`` in the
variable leaves the installed ones out.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from chronolens.errors import PluginError

VARIABLE = "CHRONOLENS_PLUGINS"
GROUP = "chronolens.models"
NONE = "none"
_log = logging.getLogger(__name__)
_WRITTEN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def listed(text: str) -> list[str]:
    """Return the words of the variable, each once.

    Raises:
        PluginError: one of them is neither ``module:function`` nor ``none``.
    """
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for word in words:
        if word != NONE and not _WRITTEN.fullmatch(word):
            raise PluginError(f"a plugin is written module:function, such as my_model:build, not {word[:80]!r}")
    return words


def asked_for(plugin: str) -> bool:
    """Return whether the variable names a plugin, rather than an installed distribution alone.

    Raises:
        PluginError: a word of the variable is written wrongly.
    """
    return plugin in listed(os.environ.get(VARIABLE, ""))


def named() -> list[str]:
    """Return ``module:function`` of every plugin: those of the variable, then those of installed distributions, by their names.

    An entry point that is written wrongly is left out, with a line in the log.

    Raises:
        PluginError: one of the variable is written wrongly.
    """
    asked = listed(os.environ.get(VARIABLE, ""))
    found = [] if NONE in asked else sorted({"".join(entry.value.partition("[")[0].split()) for entry in entry_points(group=GROUP)})
    for word in found:
        if not _WRITTEN.fullmatch(word):
            _log.warning(
                "the installed plugin %s is left out, it is not written module:function; %s=%s silences this", word, VARIABLE, NONE
            )
    installed = [word for word in found if _WRITTEN.fullmatch(word)]
    return [word for word in dict.fromkeys([*asked, *installed]) if word != NONE]


def use(plugins: Sequence[str] = ()) -> None:
    """Name plugins for this process and all that it starts.

    Where the variable names any, modules of the current folder can be imported, in whatever folder a server runs its workers.

    Raises:
        PluginError: one is written wrongly.
    """
    asked = listed(",".join([os.environ.get(VARIABLE, ""), *plugins]))
    if not asked:
        return
    os.environ[VARIABLE] = ",".join(asked)
    here, paths = os.getcwd(), [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if here not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *paths])
    if here not in sys.path:
        sys.path.insert(0, here)
