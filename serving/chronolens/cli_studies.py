"""The commands ``chronolens study ...``: questions to a model that take a whole set of clips; torch is imported when they run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

app = typer.Typer(help="Explain whole sets of clips and print tables.", no_args_is_help=True)
Model = Annotated[str, typer.Option(help="name of a served model")]
Rows = Annotated[Path | None, typer.Option(help="file of findings; the same command goes on with it")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def dataset(
    data: Annotated[Path, typer.Argument(help="folder with one sub-folder a class, or a CSV file")],
    out: Annotated[Path, typer.Option(help="folder for rows and panels; the same command goes on with it")],
    model: Model = "i3d-synthetic",
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    seed: Annotated[int, typer.Option(help="seed of the division into splits")] = 0,
    limit: Annotated[int | None, typer.Option(help="number of clips, spread evenly; all when left out", min=1)] = None,
    panels: Annotated[int, typer.Option(help="keep the panels of so many clips", min=0)] = 10,
    as_json: AsJson = False,
) -> None:
    """Masks, scores and blobs of a data set: the tables of the paper."""
    from chronolens.engine import Engine
    from chronolens.studies.dataset import data_set_figures, explain_split, markdown

    with bar() as report:
        rows = explain_split(Engine(), model, data, out, split=split, seed=seed, limit=limit, panels=panels, report=report)
    figures = data_set_figures(rows)
    typer.echo(json.dumps(figures) if as_json else markdown(figures))


@app.command()
def boxes(
    clips: Annotated[Path, typer.Argument(help="folder with video files")],
    annotations: Annotated[Path, typer.Option(help="boxes in the layout of Something-Else")],
    model: Model = "i3d-synthetic",
    as_json: AsJson = False,
) -> None:
    """Do heat maps point at the hands and objects that people marked?"""
    from chronolens.engine import Engine
    from chronolens.studies.annotated import markdown, pointing_rows

    rows = pointing_rows(Engine(), model, clips, annotations)
    typer.echo(json.dumps(rows) if as_json else markdown(rows))


@app.command()
def masks(
    reference: Annotated[Path, typer.Argument(help="JSON list of published masks; its clips lie beside it")],
    model: Model = "i3d-synthetic",
    rows: Rows = None,
    as_json: AsJson = False,
) -> None:
    """Are learned freeze masks as long and as contiguous as published ones?"""
    from chronolens.engine import Engine
    from chronolens.studies.published import compare, markdown

    with bar() as report:
        found = compare(Engine(), model, reference, rows=rows, report=report)
    typer.echo(json.dumps(found) if as_json else markdown(found))


@contextmanager
def bar() -> Iterator[Callable[[int, int], None]]:
    """Show progress on the error stream; yields a function of (done, total)."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
