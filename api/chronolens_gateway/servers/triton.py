"""Start Triton on this machine: ``python -m chronolens_gateway.servers.triton --folder RUN_DIR --store MODEL_STORE``.

Exports the model repositories that are missing or stale, links them into one, and becomes the server, so that a signal to this process
stops it. Whoever wants to reach it reads ``triton.json`` (addresses) in the run folder.

The server is the one named by ``--tritonserver``, by ``CHRONOLENS_TRITONSERVER``, on the path, or that of an installed nvidia-pytriton in
``CHRONOLENS_TRITON_HOME``, a virtual environment of its own: ``.venv-triton`` of the checkout when not set. Its Python models run in the
Python that runs this.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from chronolens.export.manifest import read_manifest
from chronolens_gateway.servers.exports import ensure
from chronolens_gateway.servers.places import announce, chosen_ports, emptied, parser, run_folder

ADDRESSES = "triton.json"
EXPLAIN = "-explain"
PORTS = ("http", "grpc", "metrics")
_STUB = "triton_python_backend_stub"
_SHARED_MEMORY = Path("/dev/shm")


def find_server(named: Path | None = None) -> Path:
    """Return the program ``tritonserver``.

    Raises:
        SystemExit: there is none.
    """
    given = named or os.environ.get("CHRONOLENS_TRITONSERVER") or shutil.which("tritonserver")
    home = Path(os.environ.get("CHRONOLENS_TRITON_HOME") or Path(__file__).resolve().parents[3] / ".venv-triton")
    found = [Path(given)] if given else sorted(home.glob("lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    if not found or not found[0].is_file():
        raise SystemExit("tritonserver is not installed: run `make triton-server`, or name one in CHRONOLENS_TRITONSERVER")
    return found[0].resolve()


def python_stub(server: Path) -> Path | None:
    """Return the stub in which the server runs models of this Python; None when it has but its own.

    Raises:
        SystemExit: it has several, and none for this Python.
    """
    stubs = server.parents[1] / "python_backend_stubs"
    if not stubs.is_dir():
        return None
    stub = stubs / f"{sys.version_info.major}.{sys.version_info.minor}" / _STUB
    if not stub.is_file():
        raise SystemExit(f"this tritonserver runs Python {', '.join(sorted(one.name for one in stubs.iterdir()))}, not {stub.parent.name}")
    return stub


def backends(server: Path, folder: Path) -> Path:
    """Return the folder of the server's backends.

    The one of nvidia-pytriton lies in parts: the Python backend is put together in ``folder`` with the stub for this Python.

    Raises:
        SystemExit: as :func:`python_stub`.
    """
    home = server.parents[1]
    stub = python_stub(server)
    if stub is None:
        return home / "backends"
    place = emptied(folder / "backends") / "python"
    place.mkdir()
    for part in (*sorted((home / "backends" / "python").iterdir()), stub):
        (place / part.name).symlink_to(part)
    return place.parent


def command(server: Path, folder: Path, ports: dict[str, int], models: list[str]) -> list[str]:
    """Return the command line of the server, which keeps to loopback.

    Args:
        folder: the run folder; its ``models`` is the model repository.
        ports: of :data:`PORTS`.
        models: names of the models to load, those for explanations apart.
    """
    there = backends(server, folder)
    return [
        str(server),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={there}",
        f"--backend-config=python,shm-region-prefix-name={_prefix(folder)}",
        "--backend-config=python,stub-timeout-seconds=120",
        *([] if (there / "onnxruntime").is_dir() else ["--model-config-name=python"]),
        "--model-control-mode=explicit",  # the one mode in which a model can be unloaded and loaded again to repair it
        *(f"--load-model={name}{kind}" for name in models for kind in ("", EXPLAIN)),
        *(f"--{name}-address=127.0.0.1" for name in PORTS),
        *(f"--{name}-port={ports[name]}" for name in PORTS),
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-timeout-secs=3",
    ]


def environment() -> dict[str, str]:
    """Return the environment in which the server starts Python: this one's, libraries included."""
    # An embedded Python finds its modules by the first python3 on the path, and other libraries of the machine would not fit those modules.
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONHOME"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": os.pathsep.join(path for path in libraries if path),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }


def main() -> None:
    """Become Triton."""
    arguments = parser("triton", __doc__, PORTS)
    arguments.add_argument("--tritonserver", type=Path, help="the program")
    asked = arguments.parse_args()
    server = find_server(asked.tritonserver)
    exports: Path = (asked.exports or asked.store / "exports").absolute()
    models = ensure("triton", asked.store, exports, asked.models)
    folder = run_folder(asked.folder)
    repository = emptied(folder / "models")
    for name in models:
        _link(exports / name / "triton", repository)
    for left in _SHARED_MEMORY.glob(f"{_prefix(folder)}*"):  # a server that was killed leaves its own behind
        left.unlink(missing_ok=True)
    ports = chosen_ports(PORTS, asked)
    line = command(server, folder, ports, models)
    announce(folder / ADDRESSES, {**{name: f"127.0.0.1:{ports[name]}" for name in PORTS}, "models": models})
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # its log is all that it says
    os.execve(line[0], line, environment())


def _link(artefact: Path, repository: Path) -> None:
    """Link the files of an artefact one by one: Python writes its bytecode beside them, and artefacts stay as they were proven."""
    for name in read_manifest(artefact).files:
        place = repository / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(artefact / name)


def _prefix(folder: Path) -> str:
    """Return how the names of this server's shared memory begin."""
    return f"chronolens_{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}_"


if __name__ == "__main__":
    main()
