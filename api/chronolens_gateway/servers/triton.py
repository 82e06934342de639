"""Start Triton on this machine: ``python -m chronolens_gateway.servers.triton --folder RUN_DIR --store MODEL_STORE``.

Exports the model repositories that are missing or stale, links them into one, runs the server, and ends with it: a signal to this process
stops both, and neither outlives the other. Whoever wants to reach the server reads ``triton.json`` (addresses) in the run folder.

It listens on Unix sockets that only this user can open, because whoever can speak to it can make it run code: with explicit model control a
request to load a model may bring the model's files. Triton's own key for such requests would have to stand on its command line, which every
user of the machine can read. Only the metrics are on loopback.

The server is the one named by ``--tritonserver``, by ``CHRONOLENS_TRITONSERVER``, on the path, or that of an installed nvidia-pytriton in
``CHRONOLENS_TRITON_HOME``, a virtual environment of its own: ``.venv-triton`` of the checkout when not set. Its Python models run in the
Python that runs this.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from chronolens.export.manifest import read_manifest
from chronolens_gateway.servers.exports import ensure
from chronolens_gateway.servers.places import announce, chosen_ports, emptied, parser, run_folder

ADDRESSES = "triton.json"
EXPLAIN = "-explain"
PORTS = ("metrics",)
SOCKETS = ("http", "grpc")
_STUB = "triton_python_backend_stub"
_PORT = ":1"
"""What the server takes for a port; over gRPC it becomes part of the socket's name."""
_SHARED_MEMORY = Path("/dev/shm")
_LONGEST_SOCKET_FOLDER = 80
_GRACE_S = 4.0
"""The supervisor kills after five seconds."""
_LOOK_S = 1.0


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


def command(server: Path, folder: Path, sockets: dict[str, str], metrics: int, models: list[str]) -> list[str]:
    """Return the command line of the server.

    Args:
        folder: the run folder; its ``models`` is the model repository.
        sockets: addresses for :data:`SOCKETS`, see :func:`socket_addresses`.
        metrics: port on loopback.
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
        *(f"--{name}-address={sockets[name].removesuffix(_PORT)}" for name in SOCKETS),
        *(f"--{name}-port{_PORT.replace(':', '=')}" for name in SOCKETS),
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics}",
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


def socket_addresses(folder: Path) -> dict[str, str]:
    """Return the addresses of :data:`SOCKETS` in a fresh folder that only this user can enter, in names that no earlier server had.

    A path may have about 100 bytes, and gRPC reads it as a URI: the sockets of a run folder for which that does not do lie elsewhere.
    """
    place = folder / "sockets"
    if len(os.fsencode(place)) > _LONGEST_SOCKET_FOLDER or not re.fullmatch(r"[\w/.+-]+", str(place), re.ASCII):
        place = Path(tempfile.gettempdir()) / f"chronolens-triton-{os.getuid()}-{_digest(folder)}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)  # fails when somebody else's is in the way
    fresh = secrets.token_hex(4)  # a client would wait long before it tries an address again that has failed it
    return {"http": f"unix:{place}/http-{fresh}", "grpc": f"unix:{place}/grpc-{fresh}{_PORT}"}


def attend(server: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait until the server has ended, and return its exit status; what it leaves in shared memory is cleared away.

    A signal to this process ends the server, which gets :data:`_GRACE_S` for it.
    """
    stubs: list[int] = []
    stopping, watched = False, (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    while server.poll() is None:
        received = signal.sigtimedwait(watched, _GRACE_S if stopping else _LOOK_S)
        if received is None and stopping:
            server.kill()
        elif received is None:
            for path in _regions(folder):  # they are made readable for all, whatever the umask
                with contextlib.suppress(OSError):  # a model was unloaded meanwhile
                    path.chmod(0o600)
        elif received.si_signo != signal.SIGCHLD and not stopping:
            stopping, stubs = True, _children(server.pid)
            server.terminate()
    for stub in stubs:  # one in the middle of a slice would go on
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(stub, signal.SIGKILL)
    _clear(_regions(folder))
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def main() -> None:
    """Run Triton."""
    arguments = parser("triton", __doc__, PORTS)
    arguments.add_argument("--tritonserver", type=Path, help="the program")
    asked = arguments.parse_args()
    server = find_server(asked.tritonserver)
    exports: Path = (asked.exports or asked.store / "exports").absolute()
    models = ensure("triton", asked.store, exports, asked.models)
    folder = run_folder(asked.folder)
    os.umask(0o077)  # clips pass through the server's shared memory
    repository = emptied(folder / "models")
    for name in models:
        _link(exports / name / "triton", repository)
    _clear(_regions(folder))  # a server and a launcher that were killed leave theirs behind
    sockets, ports = socket_addresses(folder), chosen_ports(PORTS, asked)
    line = command(server, folder, sockets, ports["metrics"], models)
    announce(folder / ADDRESSES, {**sockets, "metrics": f"127.0.0.1:{ports['metrics']}", "models": models})
    leash = [sys.executable, "-m", "chronolens.leash", str(os.getpid())]
    running = subprocess.Popen([*leash, *line], stdout=sys.stderr, env=environment())  # its log is all that it says
    sys.exit(attend(running, folder))


def _link(artefact: Path, repository: Path) -> None:
    """Link the files of an artefact one by one: Python writes its bytecode beside them, and artefacts stay as they were proven."""
    for name in read_manifest(artefact).files:
        place = repository / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(artefact / name)


def _children(parent: int) -> list[int]:
    """Return file descriptors of the processes that a process has started."""
    found = []
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [os.pidfd_open(int(child)) for child in children.read_text().split()]
    return found


def _regions(folder: Path) -> list[Path]:
    """Return the shared memory of the server of a run folder."""
    return list(_SHARED_MEMORY.glob(f"{_prefix(folder)}*"))


def _clear(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _prefix(folder: Path) -> str:
    """Return how the names of this server's shared memory begin."""
    return f"chronolens_{_digest(folder)}_"


def _digest(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]


if __name__ == "__main__":
    main()
