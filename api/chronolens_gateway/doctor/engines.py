"""Which engines would start on this machine."""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from typing import Any, get_args

from chronolens_gateway.doctor.ask import NoAnswerError, plain, probe
from chronolens_gateway.doctor.findings import Diagnosis, Findings, Missing, lacking
from chronolens_gateway.doctor.java import java_findings
from chronolens_gateway.doctor.machine import CORRECT_PLUGIN, Store, artefact_state
from chronolens_gateway.doctor.triton import Server, find_server
from chronolens_gateway.settings import Engine, Settings

KINDS: dict[str, str] = {"onnx": "onnx", "torchserve": "mar", "triton": "triton"}
"""Of the artefact that each engine serves; the local one serves the weights themselves."""
# Modules that are imported to try them, as MODULE=DISTRIBUTION, by the extra that brings them.
_PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx=onnx", "onnxscript=onnxscript"),
    "torchserve": ("ts.model_service_worker=torchserve", "yaml=PyYAML", "model_archiver=torch-model-archiver"),
    "triton": ("tritonclient.http=tritonclient", "tritonclient.grpc=tritonclient"),
}
_EXPORTERS = ("onnx", "onnxscript", "model_archiver")
_CUDA = "CUDAExecutionProvider"
_GIB = 1 << 30


@dataclass(frozen=True)
class Probed:
    """What was found out once, for all engines: answers of :mod:`chronolens.probe`, or why there are none."""

    torch: dict[str, Any] | NoAnswerError
    onnx: dict[str, Any] | NoAnswerError
    packages: dict[str, dict[str, Any] | NoAnswerError]
    java: Findings
    triton: Server


def probe_all(store: Store) -> Probed:
    """Try everything, several at a time."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        torch = pool.submit(_tried, "torch", "--store", str(store.path))
        onnx = pool.submit(_tried, "onnx")
        packages = {extra: pool.submit(_tried, "packages", *modules) for extra, modules in _PACKAGES.items()}
        java, triton = pool.submit(java_findings), pool.submit(find_server)
    found = {extra: future.result() for extra, future in packages.items()}
    return Probed(torch.result(), onnx.result(), found, java.result(), triton.result())


def diagnose(settings: Settings, store: Store, probed: Probed) -> list[Diagnosis]:
    """Return the diagnosis of every engine that the settings can name."""
    return [_diagnosis(engine, settings, store, probed) for engine in get_args(Engine)]


def _diagnosis(engine: Engine, settings: Settings, store: Store, probed: Probed) -> Diagnosis:
    family = engine.partition("-")[0]
    kind = KINDS.get(family)
    states = {} if kind is None else {name: artefact_state(settings.exports / name / kind, store.digests[name]) for name in store.digests}
    to_read = [name for name in store.digests if states.get(name) != "fresh"]
    models = store.findings + _unreadable(states, settings, kind) + _weights(probed.torch, to_read, store)
    common = models + _torch(probed.torch, store) + _masks(family, probed.torch)
    exporting = kind is not None and bool(to_read)
    return Diagnosis(engine, common + _own(engine, family, probed, exporting), states)


def _own(engine: Engine, family: str, probed: Probed, exporting: bool) -> Findings:
    """Return what this engine needs besides PyTorch and models; what only writes artefacts counts when there are some to write."""
    if family == "local":
        return Findings()
    exporters = _packages(probed, "onnx", _EXPORTERS, exporting) if family != "torchserve" else Findings()
    if family == "onnx":
        return _onnx(probed) + exporters
    if family == "torchserve":
        needed = ("ts.model_service_worker", "yaml")
        return probed.java + _packages(probed, family, needed) + _packages(probed, family, _EXPORTERS, exporting)
    # the exporter writes the configuration with a module of the gRPC client
    clients = (f"tritonclient.{engine.partition('-')[2]}", *(["tritonclient.grpc"] if exporting else []))
    runtime = Findings() if probed.triton.runs_graphs and not exporting else _onnx(probed)
    return probed.triton.findings + _packages(probed, family, clients) + runtime + exporters


def _torch(facts: dict[str, Any] | NoAnswerError, store: Store) -> Findings:
    if isinstance(facts, NoAnswerError):
        return lacking(f"PyTorch: {facts}", _repair(facts, _torch_requirement(), f"torch --store {shlex.quote(str(store.path))}"))
    shown = [f"{one['device']} {one['name']}{_memory(one)}" for one in facts["devices"]]
    cards = f"CUDA devices: {facts['cards']}" if facts["cards"] else "no CUDA device"
    return Findings((f"PyTorch {facts['version']}, {cards}, {', '.join(shown)}, threads: {facts['threads']}",))


def _masks(family: str, facts: dict[str, Any] | NoAnswerError) -> Findings:
    if family == "onnx":
        return Findings(("no gradients: the mask preset exhaustive only, in float32",))
    return Findings() if isinstance(facts, NoAnswerError) else Findings((f"masks are learned in {facts['precision']}",))


def _memory(device: dict[str, Any]) -> str:
    return f" ({device['memory_bytes'] / _GIB:.0f} GiB)" if "memory_bytes" in device else ""


def _weights(facts: dict[str, Any] | NoAnswerError, names: list[str], store: Store) -> Findings:
    """Return what is wrong with weights that have to be loaded."""
    if isinstance(facts, NoAnswerError) or not names:
        return Findings()
    restore = "put the weights and their record back, or set CHRONOLENS_MODEL_STORE to another folder"
    if facts["records"]:
        return lacking(plain(facts["records"]), restore)
    wrong = {name: plain(facts["models"][name]) for name in names if facts["models"].get(name)}
    return Findings(missing=tuple(Missing(detail, CORRECT_PLUGIN if name in store.own else restore) for name, detail in wrong.items()))


def _unreadable(states: dict[str, str], settings: Settings, kind: str | None) -> Findings:
    folders = [settings.exports / name / str(kind) for name, state in states.items() if state == "unreadable"]
    return Findings(
        missing=tuple(Missing(f"the artefact {folder} cannot be read", f"rm -r {shlex.quote(str(folder))}") for folder in folders)
    )


def _onnx(probed: Probed) -> Findings:
    facts = probed.onnx
    if isinstance(facts, NoAnswerError):
        return lacking(f"ONNX Runtime: {facts}", _repair(facts, "chronolens[onnx]", "onnx"))
    found = f"ONNX Runtime {facts['version']}, sessions run on {facts['gets']}"
    if facts["gets"] == _CUDA:
        return Findings((found,))
    if _CUDA in facts["lists"]:
        return Findings((f"{found}, although {_CUDA} is listed: the libraries of CUDA or cuDNN that it wants do not load",))
    idle = not isinstance(probed.torch, NoAnswerError) and probed.torch["cards"] > 0
    advice = '; to use the graphics card: pip uninstall onnxruntime, then pip install "chronolens[gpu]"' if idle else ""
    return Findings((f"{found}{advice}",))


def _packages(probed: Probed, extra: str, wanted: tuple[str, ...], required: bool = True) -> Findings:
    """Return what became of those modules that the extra brings and that are wanted; what is not required is told, but not missed."""
    facts = probed.packages[extra]
    names = dict(one.split("=") for one in _PACKAGES[extra])
    found: list[str] = []
    missing: list[Missing] = []
    for module in (one for one in names if one in wanted):
        told = {"error": str(facts)} if isinstance(facts, NoAnswerError) else facts[module]
        if "error" not in told:
            found.append(f"{names[module]} {told['version']}")
        elif required:
            question = f"packages {module}={names[module]}"
            missing.append(Missing(f"{names[module]}: {plain(told['error'])}", _repair(told["error"], f"chronolens[{extra}]", question)))
        else:
            found.append(f"{names[module]} does not work, but only an export needs it")
    listed = ", ".join(dict.fromkeys(found))  # one distribution may have several modules
    return Findings((listed,) if listed else (), tuple(missing))


def _repair(error: object, requirement: str, question: str) -> str:
    """Return how to install what is not there; what is there and does not work has to be looked at."""
    absent = str(error).startswith(ModuleNotFoundError.__name__)
    return f'pip install "{requirement}"' if absent else f"`python -m chronolens.probe {question}` shows all of it"


def _torch_requirement() -> str:
    try:
        wanted = requires("chronolens") or []
    except PackageNotFoundError:
        wanted = []
    return next((one for one in wanted if one.startswith("torch==")), "torch")


def _tried(*arguments: str) -> dict[str, Any] | NoAnswerError:
    try:
        return probe(*arguments)
    except NoAnswerError as error:
        return error
