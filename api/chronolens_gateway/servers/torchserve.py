"""Start TorchServe on this machine: ``python -m chronolens_gateway.servers.torchserve --folder RUN_DIR --store MODEL_STORE``.

Exports the archives that are missing or stale, writes the configuration, and becomes the server, so that a signal to this process stops it.
Whoever wants to reach it reads ``torchserve.json`` (addresses) and ``key_file.json`` (keys, written by TorchServe) in the run folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from chronolens_gateway.servers.exports import ensure
from chronolens_gateway.servers.places import announce, chosen_ports, emptied, parser, run_folder

ADDRESSES = "torchserve.json"
KEYS = "key_file.json"
METRICS = Path(__file__).with_name("torchserve-metrics.yaml")
LOG = Path(__file__).with_name("torchserve-log4j2.xml")
MOST_BYTES = 65 * 1024 * 1024
"""Of one request, a clip of 64 MiB and what comes with it, and of one answer."""
_PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management", "worker")
_LONGEST_SOCKET_FOLDER = 80


def configuration(folder: Path, ports: dict[str, int], models: Iterable[str]) -> dict[str, str]:
    """Return what ``config.properties`` says.

    Args:
        folder: the run folder; its ``archives`` hold ``NAME.mar`` for each model.
        ports: of :data:`_PORTS`; all are bound on loopback.
    """
    return {
        **{f"{name}_address": f"http://127.0.0.1:{ports[name]}" for name in ("inference", "management", "metrics")},
        **{f"grpc_{name}_address": "127.0.0.1" for name in ("inference", "management")},
        **{f"grpc_{name}_port": str(ports[f"grpc_{name}"]) for name in ("inference", "management")},
        "initial_worker_port": str(ports["worker"]),
        "model_store": str(folder / "archives"),
        "load_models": ",".join(f"{name}={name}.mar" for name in models),
        "allowed_urls": "(?!)",  # matches nothing: no model comes from anywhere else
        "enable_model_api": "false",
        "disable_token_authorization": "false",
        "token_expiration_min": "60",
        "max_request_size": str(MOST_BYTES),
        "max_response_size": str(MOST_BYTES),
        "decode_input_request": "false",  # bodies reach the handler as they were sent
        "default_workers_per_model": "1",
        "number_of_netty_threads": "4",
        "netty_client_threads": "2",
        "metrics_mode": "prometheus",
        "metrics_config": str(METRICS),
        "disable_system_metrics": "true",
        "install_py_dep_per_model": "false",
    }


def properties(values: dict[str, str]) -> str:
    """Return the text of a Java properties file, which is Latin-1 and takes a backslash for an escape."""
    return "".join(f"{name}={_escaped(value)}\n" for name, value in values.items())


def command(folder: Path, temporary: Path) -> list[str]:
    """Return the command line of the server.

    Raises:
        SystemExit: Java or TorchServe is not installed.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    spec = find_spec("ts")
    if java is None or spec is None or spec.origin is None:
        missing = "Java 17 is" if java is None else "TorchServe (the extra torchserve) is"
        raise SystemExit(f"{missing} not installed; the TorchServe backend needs both")
    package = Path(spec.origin).parent
    return [
        java,
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={temporary}",
        f"-Dlog4j.configurationFile={LOG.as_uri()}",
        "-XX:+ExitOnOutOfMemoryError",  # a server without memory answers nothing, and does not end either
        *("-cp", str(package / "frontend" / "model-server.jar"), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable, "-f", str(folder / "config.properties"), "-ncs"),
    ]


def main() -> None:
    """Become TorchServe."""
    asked = parser("torchserve", __doc__, _PORTS[:3]).parse_args()
    exports: Path = (asked.exports or asked.store / "exports").absolute()
    models = ensure("mar", asked.store, exports, asked.models)
    folder = run_folder(asked.folder)  # the keys will be in it
    archives = emptied(folder / "archives")
    for name in models:
        (archives / f"{name}.mar").symlink_to(exports / name / "mar" / f"{name}.mar")
    temporary = _temporary(folder)
    ports = chosen_ports(_PORTS, asked)
    (folder / "config.properties").write_text(properties(configuration(folder, ports, models)), encoding="ascii")
    (folder / KEYS).unlink(missing_ok=True)  # those of an earlier server
    announce(folder / ADDRESSES, {**{name: f"http://127.0.0.1:{ports[name]}" for name in _PORTS[:3]}, "models": models})
    os.chdir(folder)  # where TorchServe puts its keys
    os.environ |= {
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        "TMPDIR": str(temporary),
    }
    os.environ.pop("TS_CONFIG_FILE", None)
    line = command(folder, temporary)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # its log is all that it says
    os.execv(line[0], line)


def _temporary(folder: Path) -> Path:
    """Return an empty folder for unpacked archives and the workers' sockets; a socket's path may have about 100 bytes, so the folder of
    a deep run folder lies elsewhere."""
    inside = folder / "tmp"
    if len(os.fsencode(inside)) > _LONGEST_SOCKET_FOLDER:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        inside = Path(tempfile.gettempdir()) / f"chronolens-torchserve-{os.getuid()}-{digest}"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir(mode=0o700)  # fails when somebody else's is in the way
    return inside


def _escaped(value: str) -> str:
    units = value.encode("utf-16-be", "surrogatepass")
    codes = [int.from_bytes(units[place : place + 2], "big") for place in range(0, len(units), 2)]
    return "".join(chr(code) if 32 <= code < 127 and code != ord("\\") else f"\\u{code:04x}" for code in codes)


if __name__ == "__main__":
    main()
