"""The option ``--plugin`` of the commands that answer for models; every command reads ``CHRONOLENS_PLUGINS``."""

from __future__ import annotations

from typing import Annotated

import typer

from chronolens import plugin_names


def _use(plugins: list[str] | None) -> list[str] | None:
    plugin_names.use(plugins or ())
    return plugins


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE:FUNCTION",
        help="function that brings an own model; may come several times",
        callback=_use,
        show_default=False,
    ),
]
"""Its callback does all there is to do; the commands themselves need not look at it."""
