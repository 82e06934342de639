"""The commands ``chronolens train`` and ``chronolens evaluate``; torch is imported when they run, not before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from chronolens.errors import OptionsError

Data = Annotated[
    str,
    typer.Option(
        help="`synthetic`, a folder with one sub-folder a class, or a CSV file (file,label); before it `arrow-of-time:` asks which way"
    ),
]


def train(
    architecture: Annotated[str, typer.Option(help="i3d, clstm, tsm or slowfast")] = "i3d",
    name: Annotated[
        str | None, typer.Option(help="name of the weights; ARCHITECTURE-synthetic or ARCHITECTURE-custom when left out")
    ] = None,
    data: Data = "synthetic",
    start_from: Annotated[str | None, typer.Option(help="shipped weights to start from; random when left out")] = None,
    store: Annotated[Path, typer.Option(help="folder that gets weights and record")] = Path("model_store"),
    work: Annotated[Path, typer.Option(help="folder for checkpoints, cache and log; a run there is resumed")] = Path("runs"),
    phases: Annotated[
        str | None,
        typer.Option(
            help="SIZE:EPOCHS in order, such as 64:14,112:3; trailing n: normalise by running statistics, b: teach where things move"
        ),
    ] = None,
    clips: Annotated[int | None, typer.Option(help="training clips an epoch")] = None,
    pool: Annotated[int | None, typer.Option(help="number of different training clips")] = None,
    batch: Annotated[int | None, typer.Option(help="clips a step")] = None,
    rate: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    dropout: Annotated[float | None, typer.Option(help="dropout in training")] = None,
    precision: Annotated[str, typer.Option(help="bf16 or float32")] = "bf16",
    seed: Annotated[int, typer.Option(help="seed of data order, start weights and augmentation")] = 0,
    workers: Annotated[int, typer.Option(help="processes that make or decode clips")] = 1,
    threads: Annotated[int | None, typer.Option(help="threads of PyTorch")] = None,
    stop_after: Annotated[int | None, typer.Option(help="stop after so many epochs; the same command goes on later")] = None,
) -> None:
    """Train a network and write weights, figures and record into the store."""
    from chronolens.training.options import TrainOptions
    from chronolens.training.run import train as run

    given: dict[str, Any] = {
        "clips": clips,
        "pool": pool,
        "batch": batch,
        "rate": rate,
        "dropout": dropout,
        "phases": None if phases is None else _phases(phases),
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    options = TrainOptions(
        architecture=architecture,
        name=name or f"{architecture}-{'synthetic' if data == 'synthetic' else 'custom'}",
        data=data,
        start_from=start_from,
        store=store,
        work=work,
        precision=precision,
        seed=seed,
        workers=workers,
        threads=threads,
        stop_after=stop_after,
        **chosen,
    )
    record = run(options)
    typer.echo("stopped early; run the same command to go on" if record is None else json.dumps(record.metrics))


def evaluate(
    model: Annotated[str, typer.Option(help="name of a served model")] = "i3d-synthetic",
    data: Data = "synthetic",
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    seed: Annotated[int, typer.Option(help="seed of the synthetic clips, or of the division of a folder")] = 0,
    limit: Annotated[int | None, typer.Option(help="number of clips; 480, with --explanations 100, when left out", min=1)] = None,
    reversed_: Annotated[bool, typer.Option("--reversed", help="also play the clips backwards")] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="also show clips in which every frame equals the first")] = False,
    precision: Annotated[str, typer.Option(help="float32 or bf16")] = "float32",
    explanations: Annotated[
        bool, typer.Option("--explanations", help="compare heat maps and masks with when and where synthetic clips move")
    ] = False,
    methods: Annotated[
        str | None, typer.Option(help="with --explanations: gradcam/..., freeze/PRESET, reverse/PRESET, each perhaps with :CLIPS")
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="with --explanations: file of findings; the same command goes on with it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, confusion matrix included")] = False,
) -> None:
    """Measure a model, or its explanations, on a split of a data set."""
    if explanations:
        if reversed_ or frozen or precision != "float32":
            raise OptionsError("--explanations goes without --reversed, --frozen and --precision; CHRONOLENS_PRECISION decides for masks")
        _truth(model, data, split, seed, limit or 100, methods, rows, as_json)
        return
    if methods is not None or rows is not None:
        raise OptionsError("--methods and --rows belong to --explanations")
    from chronolens.catalogue import open_model
    from chronolens.store import default_store
    from chronolens.training.evaluate import evaluate as run

    record, network = open_model(model, default_store())
    figures = run(
        network,
        record.clip,
        record.classes,
        data=data,
        split=split,
        seed=seed,
        limit=limit or 480,
        reversed=reversed_,
        frozen=frozen,
        precision=precision,
    )
    if as_json:
        typer.echo(json.dumps({"model": model, **figures}))
        return
    for key, value in figures.items():
        if key not in ("classes", "confusion"):
            typer.echo(f"{key:18} {value:.4f}" if isinstance(value, float) else f"{key:18} {value}")


def _truth(model: str, data: str, split: str, seed: int, limit: int, methods: str | None, rows: Path | None, as_json: bool) -> None:
    from chronolens.cli_studies import bar
    from chronolens.engine import Engine
    from chronolens.studies.rows import origin
    from chronolens.studies.truth import METHODS, SPLIT, run
    from chronolens.studies.truth_table import markdown, truth_figures

    if data != "synthetic" or split != SPLIT:
        raise OptionsError("truth is known for the test split of the synthetic data only", pointer="/data")
    wanted = METHODS if methods is None else [part.strip() for part in methods.split(",") if part.strip()]
    engine = Engine()
    with bar() as report:
        found = run(engine, model, methods=wanted, limit=limit, seed=seed, rows=rows, report=report)
    figures = {**origin(engine, model), "seed": seed, **truth_figures(found)}
    typer.echo(json.dumps(figures) if as_json else markdown(figures))


def _phases(text: str) -> tuple[Any, ...]:
    from chronolens.training.options import LOCALISE, Phase

    try:
        parts = [part.strip().split(":") for part in text.split(",")]
        return tuple(
            Phase(int(size), int(epochs.rstrip("nb")), running_norm="n" in epochs, localise=LOCALISE if "b" in epochs else 0.0)
            for size, epochs in parts
        )
    except ValueError as error:
        raise OptionsError("phases are written SIZE:EPOCHS, such as 64:14,112:3", pointer="/phases") from error
