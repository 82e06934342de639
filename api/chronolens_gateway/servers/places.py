"""Where a model server runs and listens: what the launchers share."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def parser(module: str, description: str | None, ports: Iterable[str]) -> argparse.ArgumentParser:
    """Return the arguments that every launcher takes."""
    made = argparse.ArgumentParser(prog=f"chronolens_gateway.servers.{module}", description=description)
    made.add_argument("--folder", type=Path, required=True, help="run folder, of this server alone")
    made.add_argument("--store", type=Path, required=True, help="model store")
    made.add_argument("--exports", type=Path, help="where artefacts are kept; STORE/exports when left out")
    made.add_argument("--models", nargs="+", help="models to serve; all of the store when left out")
    for name in ports:
        made.add_argument(f"--{name}-port", type=int, default=0, help="on loopback; a free one when left out")
    return made


def run_folder(folder: Path) -> Path:
    """Make the run folder, readable by this user only, and return it as an absolute path."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def emptied(folder: Path) -> Path:
    """Return a folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def chosen_ports(names: Sequence[str], asked: argparse.Namespace) -> dict[str, int]:
    """Return a port for each name: the one asked for, or a free one; all are different."""
    with contextlib.ExitStack() as taken:
        return {name: getattr(asked, f"{name}_port", 0) or _free(taken) for name in names}


def announce(path: Path, facts: dict[str, Any]) -> None:
    """Write how the server can be reached, all at once."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(facts), encoding="utf-8")
    fresh.replace(path)


def _free(taken: contextlib.ExitStack) -> int:
    bound = taken.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    number: int = bound.getsockname()[1]
    return number
