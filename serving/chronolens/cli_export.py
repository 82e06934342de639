"""The command ``chronolens export``; torch is imported when it runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from chronolens.cli_plugins import Plugins

if TYPE_CHECKING:
    from chronolens.export.manifest import Manifest


def export(
    kind: Annotated[str, typer.Argument(help="mar, onnx, torch-export or triton", show_default=False)],
    model: Annotated[str, typer.Argument(help="name of a served model, see `chronolens models`", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="folder to write; STORE/exports/MODEL/KIND when left out")] = None,
    store: Annotated[Path | None, typer.Option(help="folder with weights.toml; the shipped one when left out")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the manifest as one JSON object")] = False,
) -> None:
    """Write a model in another format, and prove that it answers as the network does."""
    from chronolens.export.run import export as run

    folder, manifest = run(kind, model, store, out)
    if as_json:
        typer.echo(manifest.model_dump_json())
        return
    answers = Console()
    answers.print(_parity_table(manifest))
    answers.print(f"files in {folder}/", markup=False, highlight=False, soft_wrap=True)


def _parity_table(manifest: Manifest) -> Table:
    from chronolens.export.parity import HEAT_MAP_LIMIT, LOGIT_LIMIT

    found = manifest.parity
    table = Table("parity", "found", "limit", title=f"{manifest.model} as {manifest.kind}, {found.clips} clips against the network")
    table.add_row("largest difference of a logit", f"{found.max_logit_difference:.2g}", f"{LOGIT_LIMIT:g}")
    table.add_row("largest difference of a heat map", f"{found.max_heat_map_difference:.2g}", f"{HEAT_MAP_LIMIT:g}")
    table.add_row("same class", "yes" if found.same_class else "no", "yes")
    for name, facts in manifest.files.items():
        table.add_row(f"size of {name}", f"{facts.bytes / 1e6:.1f} MB", "")
    return table
