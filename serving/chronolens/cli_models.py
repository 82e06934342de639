"""The commands ``chronolens models ...``: list, show, import, pull; torch is imported when they run."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table

from chronolens.cli_plugins import Plugins
from chronolens.errors import OptionsError

if TYPE_CHECKING:
    from chronolens.models.weights import WeightsRecord
    from chronolens.schemas import ModelInfo

app = typer.Typer(help="List the served models, show one, and import public checkpoints.", invoke_without_command=True)
answers = Console()
AsJson = Annotated[bool, typer.Option("--json", help="print the answer as one JSON object")]
Store = Annotated[Path | None, typer.Option(help="folder with weights.toml; the shipped one when left out", show_default=False)]
Name = Annotated[str | None, typer.Option(help="name of the new model", show_default=False)]
Labels = Annotated[Path | None, typer.Option(help="class names: JSON list or object, or one a line", show_default=False)]
Replace = Annotated[bool, typer.Option("--replace", help="write over a model of that name")]


@app.callback()
def models(context: typer.Context, plugin: Plugins = None, as_json: AsJson = False) -> None:
    """List the served models."""
    if context.invoked_subcommand is not None:
        return
    from chronolens.engine import Engine

    found = Engine().models()
    if as_json:
        typer.echo(json.dumps({"models": [info.model_dump(mode="json") for info in found]}))
        return
    table = Table(Column("model", no_wrap=True), "architecture", "data set", "classes", "clip", "macro F1", "weights")
    for info in found:
        f1 = str(info.metrics.get("f1", "-"))
        table.add_row(info.name, info.architecture, info.data_set, str(len(info.classes)), _clip(info), f1, info.weights[:12])
    answers.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="name of a served model", show_default=False)], store: Store = None, as_json: AsJson = False
) -> None:
    """Show one model: its clips, classes, and the layers of which heat maps can be made."""
    from chronolens.engine import Engine

    info = Engine(store).describe(name)
    if as_json:
        typer.echo(info.model_dump_json())
        return
    for title, text in _facts(info):
        answers.print(f"{title + ':':16}{text}", markup=False, highlight=False, soft_wrap=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="torch file, safetensors or caffe2 pickle", exists=True, dir_okay=False, show_default=False)],
    dialect: Annotated[str, typer.Option("--as", help="dialect of the file, see docs/models.md; auto tells it from the names")] = "auto",
    name: Name = None,
    labels: Labels = None,
    frames: Annotated[int | None, typer.Option(help="frames of a clip; the dialect's when left out", min=1, show_default=False)] = None,
    size: Annotated[int | None, typer.Option(help="side of the crop in pixels", min=1, show_default=False)] = None,
    sampling: Annotated[str | None, typer.Option(help="rule that picks the frames", show_default=False)] = None,
    interval: Annotated[int | None, typer.Option(help="from one sampled frame to the next", min=1, show_default=False)] = None,
    licence: Annotated[str | None, typer.Option(help="of the weights, as published", show_default=False)] = None,
    data_set: Annotated[str | None, typer.Option(help="what they were trained on", show_default=False)] = None,
    config: Annotated[list[str] | None, typer.Option(help="option of the network that weights do not show: alpha=8")] = None,
    store: Store = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Make a served model of a checkpoint: all of it checked, one clip tried, written once as safetensors with its record."""
    from chronolens.importing.importer import ImportOptions, import_checkpoint
    from chronolens.store import default_store

    clip = {"frames": frames, "size": size, "sampling": sampling, "interval": interval}
    options = ImportOptions(
        name,
        dialect,
        labels,
        {key: value for key, value in clip.items() if value is not None},
        licence,
        data_set,
        _pairs(config or []),
        replace,
    )
    _tell(import_checkpoint(file, store or default_store(), options), as_json)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="public checkpoint, see `chronolens models public`", show_default=False)],
    file: Annotated[Path | None, typer.Option(help="a copy brought by hand; nothing is fetched", show_default=False)] = None,
    labels: Labels = None,
    model_name: Annotated[str | None, typer.Option("--name", help="name of the new model; the public one's", show_default=False)] = None,
    downloads: Annotated[Path | None, typer.Option(help="folder for what is fetched; ~/.cache/chronolens", show_default=False)] = None,
    store: Store = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a public checkpoint, check its digest, and make a served model of it. A stopped download goes on where it stopped."""
    from chronolens.importing.importer import ImportOptions
    from chronolens.importing.public import find_public
    from chronolens.importing.pull import pull as bring
    from chronolens.store import default_store

    folder = store or default_store()
    public = find_public(folder, name)
    options = ImportOptions(model_name, labels=labels, replace=replace)
    with _download_bar(public.file) as report:
        record = bring(public, folder, downloads or _cache(), options, copy=file, report=report)
    _tell(record, as_json)


@app.command("public")
def public_list(store: Store = None, as_json: AsJson = False) -> None:
    """List the public checkpoints that `chronolens models pull` knows."""
    from chronolens.importing.public import public_files
    from chronolens.store import default_store

    found = public_files(store or default_store()).values()
    if as_json:
        typer.echo(json.dumps({"public": [dataclasses.asdict(public) for public in found]}))
        return
    table = Table(Column("name", no_wrap=True), "what", "data set", "licence", "digest")
    for public in found:
        table.add_row(public.name, public.what, public.data_set, public.licence, public.sha256[:8] or "not published")
    answers.print(table)


def _tell(record: WeightsRecord, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(record)))
        return
    clip = record.clip
    lines = [
        f"{record.name}: {record.architecture}, {len(record.classes)} classes, {record.source}",
        f"clips: {clip.frames} x {clip.height} x {clip.width}, {clip.sampling} every {clip.interval}, {clip.resize}",
        *(f"note: {warning}" for warning in record.warnings),
    ]
    answers.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _facts(info: ModelInfo) -> Iterator[tuple[str, str]]:
    clip = info.clip
    yield "model", info.name
    yield "architecture", info.architecture
    yield "data set", f"{info.data_set}, licence of the weights: {info.licence}"
    yield "classes", f"{len(info.classes)}: {', '.join(info.classes[:5])}{', ...' if len(info.classes) > 5 else ''}"
    yield "clip", f"{_clip(info)}, sampling {clip.sampling}, interval {clip.interval}"
    yield "frames", f"{clip.resize}, short side {clip.short_side or '-'}, interpolation {clip.interpolation}, channels {clip.channels}"
    yield "values", f"(value * {clip.scale:.6g} - {clip.mean}) / {clip.std}"
    yield "pathways", ", ".join(info.pathways) or "one"
    yield "default layers", ", ".join(info.default_layers)
    for stage, modules in info.stages.items():
        yield stage, ", ".join(modules)
    yield "layers", ", ".join(info.layers)
    for warning in info.warnings:
        yield "note", warning


def _clip(info: ModelInfo) -> str:
    return f"{info.clip.frames} x {info.clip.height} x {info.clip.width}"


def _pairs(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise OptionsError(f"{text!r} is no KEY=VALUE", pointer="/config")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
        if found[key] is None or isinstance(found[key], dict):
            raise OptionsError(f"{text!r} is no value of an option", pointer="/config")
        if isinstance(found[key], list):
            found[key] = tuple(found[key])
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chronolens" / "downloads"


@contextmanager
def _download_bar(file: str) -> Iterator[Callable[[int, int | None], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(file, total=None, visible=False)
        yield lambda there, total: progress.update(task, completed=there, total=total, visible=True)
