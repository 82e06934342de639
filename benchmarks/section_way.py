"""One request at a time: the engine in this process, the same over its transport, a whole prediction over HTTP; and slices of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from markdown_table import Table
from samples import apart, clocked, columns, spread
from tiny_services import MODEL, Service

from chronolens import pipeline
from chronolens.options import MaskOptions

Sample = dict[str, float]
_DEMAND = "The demand for gateway and engine against the bare call is at most 25 ms at p99; the aim is 5 ms."
_APART = (
    "*more* is the difference of the two percentiles, *paired* the percentile of the differences of calls made one right after the other, "
    "which also holds what two bare calls are apart."
)


def way_tables(services: Sequence[Service], rounds: int, repeats: int) -> list[Table]:
    """Return what the way to the engine costs a prediction, one request at a time."""
    samples = _in_turns({one.name: partial(_look, one) for one in services}, rounds, repeats)
    seconds = {name: columns(rows) for name, rows in samples.items()}
    return [_hop(seconds), _whole(seconds), _beside(seconds)]


def slice_tables(services: Sequence[Service], rounds: int, repeats: int) -> list[Table]:
    """Return what the way costs a slice of a mask; a job makes some 20 to 50 of them."""
    works: dict[str, tuple[str, Callable[[], Sample]]] = {one.name: _one_slice(one) for one in services}
    samples = _in_turns({name: work for name, (_, work) in works.items()}, rounds, repeats)
    rows = [
        {"engine": name, "preset": works[name][0], "slices": len(found)}
        | spread("bare", (seconds := columns(found))["bare"])
        | spread("hop", seconds["hop"])
        | apart(seconds["hop"], seconds["bare"])
        for name, found in samples.items()
    ]
    note = "A slice of one step, always from the same state, in this process (bare) and over the transport (hop); the state goes both ways."
    return [Table("One slice of a freeze mask: the way to the engine", rows, [note, _APART])]


def _in_turns(works: Mapping[str, Callable[[], Sample]], rounds: int, repeats: int) -> dict[str, list[Sample]]:
    """Return the samples of each piece of work; in every round each has ``repeats`` of them in a row, and one round more warms up."""
    found: dict[str, list[Sample]] = {name: [] for name in works}
    for number in range(-1, rounds):
        for name, work in works.items():
            taken = [work() for _ in range(repeats)]
            if number >= 0:
                found[name] += taken
    return found


def _look(service: Service) -> Sample:
    """Ask the same of the bare engine, over the transport and over HTTP, one right after the other."""

    def asked(engine: pipeline.Engine) -> float:
        _, facts = engine.look(MODEL, service.frames, target=None, gradcam=None)
        own: float = facts["seconds"]
        return own

    bare, _ = clocked(lambda: asked(service.bare))
    hop, own = clocked(lambda: asked(service.client))
    total, timing = clocked(service.predict)
    return {"bare": bare, "hop": hop, "own": own, "http": total, **{name: timing[name] for name in ("decode", "queue", "inference")}}


def _one_slice(service: Service) -> tuple[str, Callable[[], Sample]]:
    """Return the preset that the engine can learn by, and a slice in this process and over the transport."""
    (preset, *_) = [name for name in ("default", "exhaustive") if name in service.info.mask_presets]
    options = MaskOptions.model_validate({"preset": preset})
    target = int(service.bare.look(MODEL, service.frames, target=None, gradcam=None)[1]["target"])

    def learn(engine: pipeline.Engine, state: dict[str, Any] | None) -> dict[str, Any]:
        return engine.learn(MODEL, service.frames, target, "freeze", options, state, max_steps=1, budget_s=0.0)

    state = learn(service.bare, None)["state"]

    def work() -> Sample:
        return {name: clocked(lambda engine=engine: learn(engine, state))[0] for name, engine in _engines(service)}  # type: ignore[misc]

    return preset, work


def _engines(service: Service) -> Iterator[tuple[str, pipeline.Engine]]:
    yield "bare", service.bare
    yield "hop", service.client


def _hop(found: Mapping[str, dict[str, list[float]]]) -> Table:
    rows = [
        {"engine": name, "requests": len(one["bare"])}
        | spread("bare", one["bare"])
        | spread("hop", one["hop"])
        | apart(one["hop"], one["bare"])
        | spread("beside_own", _minus(one["hop"], one["own"]))
        for name, one in found.items()
    ]
    notes = [
        f"bare: `Engine.look` on decoded frames in this process, {torch.get_num_threads()} thread; hop: the same through the gateway's "
        "client and transport, from this process, past the gateway. No decoding in either.",
        f"{_APART} *beside own*: what the hop took beside the seconds that the engine says it spent on the same call.",
    ]
    return Table("The engine over its transport against the bare call", rows, notes)


def _whole(found: Mapping[str, dict[str, list[float]]]) -> Table:
    rows = [
        {"engine": name, "requests": len(one["http"])}
        | spread("total", one["http"])
        | spread("decode", one["decode"])
        | spread("queue", one["queue"])
        | spread("inference", one["inference"])
        | spread("rest", _minus(one["http"], one["decode"], one["queue"], one["inference"]))
        for name, one in found.items()
    ]
    notes = [
        "`POST /v1/predictions` with the clip as a form, over a connection that is kept alive. decode (the sandbox: a process of its own "
        "for each clip), queue and inference (the hop) as the answer's `timing_s` tells them; rest: HTTP in client and gateway, form, JSON."
    ]
    return Table("A prediction over HTTP and what it is made of", rows, notes)


def _beside(found: Mapping[str, dict[str, list[float]]]) -> Table:
    rows = [
        {"engine": name, "decoding": decoding, "requests": len(one["http"])} | apart(seconds, one["bare"])
        for name, one in found.items()
        for decoding, seconds in (("out", _minus(one["http"], one["decode"])), ("in", one["http"]))
    ]
    notes = [f"{_DEMAND} decoding out: the request's seconds without those that its `timing_s` gives to decoding.", _APART]
    return Table("Gateway and engine against the bare call", rows, notes)


def _minus(whole: Sequence[float], *parts: Sequence[float]) -> list[float]:
    return [one - sum(rest) for one, *rest in zip(whole, *parts, strict=True)]
