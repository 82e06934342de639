"""The Triton server that would be started: its program, its Python backend and whether it runs ONNX graphs itself."""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from chronolens_gateway.doctor.ask import NoAnswerError, ask, plain
from chronolens_gateway.doctor.findings import Findings, lacking
from chronolens_gateway.servers import triton

ANSWER_S = 30.0
_THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
_OTHER = "make triton-server, or name another one in CHRONOLENS_TRITONSERVER"


@dataclass(frozen=True)
class Server:
    """What was found of it.

    Args:
        findings: of all checks.
        runs_graphs: whether it has a backend ``onnxruntime``; without one Python runs them.
    """

    findings: Findings
    runs_graphs: bool = False


def find_server() -> Server:
    """Look for the server as its launcher does, and start it as far as its help."""
    try:
        program = triton.find_server()
    except SystemExit:
        return Server(lacking("tritonserver", "make triton-server, or name one in CHRONOLENS_TRITONSERVER"))
    try:
        with tempfile.TemporaryDirectory(prefix="chronolens-") as folder:
            backends = triton.backends(program, Path(folder))
            python, graphs = ((backends / name).is_dir() for name in ("python", "onnxruntime"))
    except SystemExit as error:
        return Server(lacking(str(error), f"use one of these versions of Python, or {_OTHER}"))
    except OSError as error:
        return Server(lacking(f"the backends of {program} cannot be read: {error.strerror}", _OTHER))
    if not python:
        return Server(lacking(f"{program} has no Python backend", _OTHER))
    other = _python_of(program)
    if other not in (None, _THIS):
        return Server(lacking(f"{program} runs Python {other}, not {_THIS}", f"use Python {other}, or {_OTHER}"))
    by = "its own backend" if graphs else "ONNX Runtime in Python"
    return Server(_started(program) + Findings((f"Python backend for Python {_THIS}; graphs run by {by}",)), graphs)


def _python_of(program: Path) -> str | None:
    """Return the version of Python that the server's only stub was linked with; None when it has several, or does not show it."""
    if triton.python_stub(program) is not None:
        return None
    try:
        body = (program.parents[1] / "backends" / "python" / "triton_python_backend_stub").read_bytes()
    except OSError:
        return None
    named = re.search(rb"libpython(3\.\d+)", body)
    return named[1].decode() if named else None


def _started(program: Path) -> Findings:
    try:
        answer = ask([str(program), "--help"], ANSWER_S, triton.environment())
    except NoAnswerError as error:
        return lacking(f"{program} {error}", _OTHER)
    if "--model-repository" not in answer.text:  # the help ends with status 1, so that the status tells nothing
        return lacking(f"{program} does not start: {plain(answer.text[:1000])}", _OTHER)
    return Findings((f"tritonserver, {program}",))
