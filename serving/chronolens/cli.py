"""The ``chronolens`` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from chronolens import cli_export, cli_models, cli_studies, cli_training, plugin_names, schemas
from chronolens.cli_plugins import Plugins
from chronolens.errors import ChronolensError
from chronolens.summary import explanation_lines, prediction_table

app = typer.Typer(help="Why a video model said what it said, and when in the clip it made up its mind.", no_args_is_help=True)
notes = Console(stderr=True)
answers = Console()
app.command()(cli_training.train)
app.command()(cli_training.evaluate)
app.command()(cli_export.export)
app.add_typer(cli_studies.app, name="study")
app.add_typer(cli_models.app, name="models")

Clip = Annotated[Path, typer.Argument(help="video file: MP4/MOV, Matroska/WebM or AVI", exists=True, dir_okay=False, show_default=False)]
Model = Annotated[str, typer.Option(help="name of a served model, see `chronolens models`")]
AsJson = Annotated[bool, typer.Option("--json", help="print the answer as one JSON object")]
ClassOption = Annotated[str | None, typer.Option(help="class index or label", show_default=False)]
BAD_INPUT = 2


@app.command()
def explain(
    clip: Clip,
    model: Model = "i3d-synthetic",
    methods: Annotated[str, typer.Option(help="comma separated: gradcam, freeze, reverse")] = "gradcam,freeze,reverse",
    mask_preset: Annotated[str, typer.Option(help="default, paper, authors or exhaustive")] = "default",
    target: ClassOption = None,
    true_class: ClassOption = None,
    top_k: Annotated[int, typer.Option(help="how many classes to list")] = 5,
    layers: Annotated[str, typer.Option(help="layers of the heat map, comma separated")] = "default",
    weights: Annotated[str, typer.Option(help="Grad-CAM channel weights: per_frame or per_clip")] = "per_frame",
    of: Annotated[str, typer.Option(help="gradient of: logit or probability")] = "logit",
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
    steps: Annotated[int | None, typer.Option(help="optimiser steps a mask; the preset's own when left out")] = None,
    out: Annotated[Path, typer.Option(help="folder for videos, pictures and result.json")] = Path("explained"),
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Explain a clip: heat maps, freeze and reverse masks, scores."""
    from chronolens.local import explain as explain_file  # torch is slow to import and other commands do without it

    options: dict[str, Any] = {
        "model": model,
        "methods": _listed(methods),
        "target": _class(target),
        "true_class": _class(true_class),
        "top_k": top_k,
        "gradcam": {"layers": _listed(layers), "weights": weights, "of": of},
        "mask": {"preset": mask_preset, "seed": seed, **({} if steps is None else {"steps": steps})},
    }
    with _bar() as bar:
        result = explain_file(clip, out=out, report=_reporter(bar), **options)
    if as_json:
        typer.echo(result.model_dump_json())
    else:
        answers.print(*explanation_lines(result.model_dump(mode="json")), sep="\n", soft_wrap=True, markup=False)
        answers.print(f"files in {out}/", highlight=False)


@app.command()
def predict(
    clip: Clip,
    model: Model = "i3d-synthetic",
    top_k: Annotated[int, typer.Option(help="how many classes to list")] = 5,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Predict the class of a clip."""
    from chronolens.local import predict as predict_file

    result = predict_file(clip, model=model, top_k=top_k)
    if as_json:
        typer.echo(result.model_dump_json())
    else:
        answers.print(prediction_table(result.model_dump(mode="json")))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 takes a free one", min=0, max=65535)] = 8000,
    engine: Annotated[str | None, typer.Option(help="local, onnx, torchserve, triton-http or triton-grpc", show_default="local")] = None,
    plugin: Plugins = None,
) -> None:
    """Run the HTTP service with its runner and the engine on this machine; model servers are given what they need first."""
    if engine is not None:
        os.environ["CHRONOLENS_ENGINE"] = engine
    arguments = [sys.executable, "-m", "chronolens_gateway", "--host", host, "--port", str(port)]
    os.execv(sys.executable, arguments)  # one process, so that a signal to the command stops the service


@app.command()
def doctor(plugin: Plugins = None, as_json: AsJson = False) -> None:
    """Tell which engines are usable on this machine, and why the others are not."""
    arguments = [sys.executable, "-m", "chronolens_gateway.doctor", *(["--json"] if as_json else [])]
    os.execv(sys.executable, arguments)


def _bar() -> Progress:
    columns = (TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    return Progress(*columns, console=notes, transient=True)


def _reporter(bar: Progress) -> Any:
    tasks: dict[str, TaskID] = {}

    def report(progress: schemas.Progress) -> None:
        if progress.phase not in tasks:
            tasks[progress.phase] = bar.add_task(progress.phase, total=progress.total)
        bar.update(tasks[progress.phase], completed=progress.done, total=progress.total)

    return report


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _class(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


def main() -> None:
    """Run the command; an error in the input ends it with one line and exit status 2."""
    # Set before torch is loaded: threads that spin while they wait make a network some 20 times slower when another process is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        plugin_names.use()
        app()
    except ChronolensError as error:
        notes.print(f"{error.code}: {error.detail}", markup=False, highlight=False, soft_wrap=True)
        if error.allowed:
            notes.print(f"allowed: {', '.join(error.allowed)}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(BAD_INPUT) from None
    except OSError as error:
        notes.print(f"{error.filename or 'file'}: {error.strerror}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(BAD_INPUT) from None
