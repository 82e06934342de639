"""Who may speak to a real tritonserver."""

import base64
import json
import socket
import stat
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton

from chronolens_gateway.backends.triton import Addresses, TritonTransport
from chronolens_gateway.backends.triton_wires import RefusedError, http_client, open_wire
from chronolens_gateway.servers.triton import command, environment, find_server, socket_addresses

from .conftest import NAME, regions, stubs

RESTRICTED = "metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging"
KEY = "a-key-of-the-test"


def listening(pid):
    """Return the local addresses of a process's TCP sockets that listen, as ``/proc/net/tcp`` writes them."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(entry.readlink()))
        except OSError:
            continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_metrics_are_on_loopback(run_folder):
    (stub,) = stubs(run_folder, f"{NAME}-explain")
    server = int(Path(f"/proc/{stub}/stat").read_text().rpartition(")")[2].split()[1])
    (address,) = listening(server)
    written = json.loads((run_folder / "triton.json").read_text())
    host, port = written["metrics"].split(":")
    assert address == f"0100007F:{int(port):04X}"
    assert host == "127.0.0.1"


def test_nobody_else_can_open_the_sockets_or_the_memory(run_folder):
    written = json.loads((run_folder / "triton.json").read_text())
    for name in ("http", "grpc"):
        path = Path(written[name].removeprefix("unix:"))
        assert path.is_socket()
        assert mode(path) & 0o077 == 0
        assert mode(path.parent) == 0o700
    assert mode(run_folder) == 0o700
    assert mode(run_folder / "triton.json") == 0o600
    assert regions(run_folder)
    time.sleep(1.5)  # the launcher looks every second
    assert {mode(path) for path in regions(run_folder)} == {0o600}


@pytest.mark.parametrize("name", ["a" * 100, "with space", "per%20cent"])
def test_sockets_of_an_odd_run_folder_lie_elsewhere(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    folder = tmp_path / name
    folder.mkdir()
    first, second = (socket_addresses(folder) for _ in range(2))
    assert set(first.values()).isdisjoint(second.values())
    place = Path(second["http"].removeprefix("unix:")).parent
    assert place.parent == Path("/tmp")
    assert mode(place) == 0o700
    place.rmdir()


@contextmanager
def plain_server(folder):
    """Run a server without models as somebody else would: on TCP, restricted by a key."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for bound in (one, two, three):
            bound.bind(("127.0.0.1", 0))
        http, grpc, metrics = (bound.getsockname()[1] for bound in (one, two, three))
    (folder / "models").mkdir()
    sockets = {"http": "127.0.0.1:1", "grpc": "127.0.0.1:1"}
    line = [part for part in command(find_server(), folder, sockets, metrics, []) if not part.startswith(("--http-port", "--grpc-port"))]
    line += [f"--http-port={http}", f"--grpc-port={grpc}"]
    line += [f"--http-restricted-api={RESTRICTED}:chronolens-key={KEY}", f"--grpc-restricted-protocol={RESTRICTED}:chronolens-key={KEY}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, env=environment())
    try:
        ends_at = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{http}/v2/health/ready", trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < ends_at
            time.sleep(0.1)
        yield Addresses(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}")
    finally:
        process.kill()
        process.wait()


def test_key_of_a_server_on_tcp(tmp_path):
    with plain_server(tmp_path) as where:
        for protocol in ("http", "grpc"):
            for key in (None, "another"):
                wire = open_wire(protocol, getattr(where, protocol), key)
                for work in (wire.index, lambda: wire.load("evil"), lambda: wire.unload("evil"), lambda: wire.infer("evil", b"x", 1, 5.0)):  # noqa: B023
                    with pytest.raises(RefusedError, match="restricted"):
                        work()
                wire.close()
            wire = open_wire(protocol, getattr(where, protocol), KEY)
            assert wire.index() == {}
            with pytest.raises(RefusedError, match="evil"):
                wire.infer("evil", b"x", 1, 5.0)
            wire.close()
            (tmp_path / "triton.json").write_text(json.dumps({**where.__dict__, "key": KEY}))
            transport = TritonTransport(tmp_path / "triton.json", protocol)
            assert transport.sources() == []
            transport.close()
        evil = {"parameters": {"config": "{}", "file:1/model.py": base64.b64encode(b"pass").decode()}}
        with http_client(where.http) as client:
            for path in ("/v2/repository/models/evil/load", "/v2/systemsharedmemory/region/a/register", "/v2/logging", "/v2/trace/setting"):
                assert "restricted" in client.post(path, json=evil).json()["error"]
        with triton.InferenceServerClient(where.grpc) as client:
            for asked in (
                lambda: client.register_system_shared_memory("a", "/a", 1),
                lambda: client.update_log_settings({"log_verbose_level": 1}),
                lambda: client.get_server_metadata(),
            ):
                with pytest.raises(triton.InferenceServerException, match="restricted"):
                    asked()
    assert KEY not in repr(Addresses("a", "b", "c", KEY))
