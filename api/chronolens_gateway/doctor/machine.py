"""What every engine needs of this machine: settings, models, a folder for data, memory, and a sandbox that decodes."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chronolens.errors import WeightsError
from chronolens.export.manifest import FILE
from chronolens.store import RECORDS, digests
from chronolens_gateway.doctor.ask import NoAnswerError, plain, probe
from chronolens_gateway.doctor.findings import Findings, Missing, lacking
from chronolens_gateway.servers.exports import current, records
from chronolens_gateway.settings import Settings

CORRECT_PLUGIN = "correct the plugin, or leave it out of CHRONOLENS_PLUGINS (`none` leaves those of installed packages out)"
_CHOOSE_STORE = "set CHRONOLENS_MODEL_STORE to a folder with weights.toml"
_GIB = 1 << 30


def read_settings() -> tuple[Settings, Findings]:
    """Return the settings, defaults in place of wrong ones, and what is wrong."""
    try:
        return Settings(), Findings()
    except ValidationError as error:
        wrong = {str(one["loc"][0]): str(one["msg"]) for one in error.errors(include_url=False, include_input=False)}
    defaults = {name: Settings.model_fields[name].get_default(call_default_factory=True) for name in wrong}
    variables = {f"CHRONOLENS_{name.upper()}": message for name, message in wrong.items()}
    missing = tuple(Missing(f"{name}: {plain(message)}", f"correct {name}, or unset it") for name, message in variables.items())
    return Settings(**defaults), Findings(missing=missing)


@dataclass(frozen=True)
class Store:
    """The models: digests of their records by model, and what is wrong with them.

    Args:
        path: of the model store.
        own: which of the models plugins bring.
    """

    path: Path
    digests: dict[str, str]
    findings: Findings
    own: frozenset[str] = frozenset()


def read_store(path: Path) -> Store:
    """Return what a model store holds, and what plugins bring; nothing when it cannot be read."""
    try:
        known = digests(path)
    except (WeightsError, OSError, ValueError) as error:  # no TOML, not readable, no text
        reason = error.strerror if isinstance(error, OSError) else error
        return Store(path, {}, lacking(f"{path / RECORDS} cannot be read: {plain(str(reason))}", f"repair it, or {_CHOOSE_STORE}"))
    try:
        every = records(path)
    except (NoAnswerError, WeightsError) as error:
        return Store(path, known, lacking(f"own models: {error}", CORRECT_PLUGIN))
    findings = Findings() if every else lacking(f"the model store {path} has no models", _CHOOSE_STORE)
    return Store(path, every, findings, frozenset(every.keys() - known.keys()))


def artefact_state(folder: Path, weights: str) -> str:
    """Return ``fresh``, ``stale``, ``missing`` or ``unreadable``."""
    try:
        if not (folder / FILE).exists():
            return "missing"
        return "fresh" if current(folder, weights) else "stale"
    except OSError:
        return "unreadable"


def data_folder(folder: Path) -> Findings:
    """Try whether the data folder, or the place where it would be made, can be written; nothing is left behind."""
    try:
        place = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        what = f"the data folder {folder} cannot be written: {error.strerror}"
        return lacking(what, "make it writable, or set CHRONOLENS_DATA_DIR to another folder")
    return Findings((f"data folder {folder}, writable{'' if place == folder.absolute() else ', made at the first start'}",))


def decoding() -> Findings:
    """Send a clip through the sandbox."""
    try:
        frames = probe("decode")["frames"]
    except NoAnswerError as error:
        return lacking(f"clips cannot be decoded: {error}", "`python -m chronolens.probe decode` shows all of it")
    return Findings((f"a clip passes the sandbox, {frames} frames",))


def free_memory() -> int | None:
    """Return how many bytes are left to this machine and its control group; None where the system does not tell."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # no control group, or "max"
            found.append(int((group / limit).read_text(encoding="ascii")) - int((group / used).read_text(encoding="ascii")))
    return max(0, min(found)) if found else None


def machine_findings(settings: Settings, store: Store) -> Findings:
    """Return what holds for every engine; the models are checked with each."""
    free = free_memory()
    about = f"chronolens {version('chronolens')}, Python {platform.python_version()}, {os.cpu_count()} processor cores"
    memory = () if free is None else (f"{free / _GIB:.1f} GiB of memory are free",)
    models = f"model store {store.path}: {', '.join(store.digests) or 'no models'}"
    return Findings((about, *memory, models)) + data_folder(settings.data_dir) + decoding()


def machine_facts(settings: Settings, store: Store) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "chronolens": version("chronolens"),
        "python": platform.python_version(),
        "model_store": str(store.path),
        "models": list(store.digests),
        "data_dir": str(settings.data_dir),
        "exports": str(settings.exports),
        "free_memory_bytes": free_memory(),
    }
