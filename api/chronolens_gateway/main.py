"""Serve: ``chronolens serve`` and ``python -m chronolens_gateway`` end up here."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import signal
import sys
from pathlib import Path
from typing import IO

import uvicorn
from pydantic import ValidationError

from chronolens import plugin_names
from chronolens.errors import PluginError
from chronolens_gateway import logs
from chronolens_gateway.app import create_app
from chronolens_gateway.errors import DataFolderInUseError
from chronolens_gateway.settings import Settings

_READY_LOOK_S = 0.1
_MAX_HEAD_BYTES = 16 * 1024


def serve(host: str = "127.0.0.1", port: int = 8000, data_dir: Path | None = None, ready_line: bool = True) -> None:
    """Serve until SIGTERM or SIGINT, then stop all children.

    Args:
        host: address to listen on; anything but loopback opens the service to everybody who reaches it.
        port: 0 picks a free one.
        data_dir: data folder; ``CHRONOLENS_DATA_DIR`` or the user's own when None.
        ready_line: print the address on standard output once the service can answer.
    """
    logs.configure("gateway")
    try:
        plugin_names.use()
        settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
        settings.prepare()
        lock = _own(settings) if settings.embedded else None
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            sys.stderr.write(f"chronolens cannot start: CHRONOLENS_{str(wrong['loc'][0]).upper()}: {wrong['msg']}\n")
        sys.exit(2)
    except (OSError, DataFolderInUseError, PluginError) as error:
        sys.stderr.write(f"chronolens cannot start: {error}\n")
        sys.exit(2)
    with lock or contextlib.nullcontext():
        _run(settings, host, port, ready_line=ready_line)


def _own(settings: Settings) -> IO[bytes]:
    """Return the lock of the data folder: two services in one folder would take each other's engine and uploads.

    Raises:
        DataFolderInUseError: another service holds it.
    """
    lock = (settings.run_dir / "gateway.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise DataFolderInUseError("another service uses this data folder; set CHRONOLENS_DATA_DIR to a folder of its own") from error
    return lock


def _run(settings: Settings, host: str, port: int, *, ready_line: bool) -> None:
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    )
    server = uvicorn.Server(config)
    app.state.stopping = lambda: server.should_exit
    asyncio.run(_serve(server, host, ready_line=ready_line))


async def _serve(server: uvicorn.Server, host: str, *, ready_line: bool) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        # The server puts back these handlers at its end and raises the signal again; a clean stop is exit status 0.
        signal.signal(number, lambda *_: None)
    announcing = asyncio.create_task(_announce(server, host)) if ready_line else None
    await server.serve()
    if announcing is not None:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)
    if not server.started:
        sys.exit(1)


async def _announce(server: uvicorn.Server, host: str) -> None:
    """Print the address as soon as the service can answer."""
    while not server.started:
        await asyncio.sleep(_READY_LOOK_S)
    port = server.servers[0].sockets[0].getsockname()[1]
    app = server.config.app
    while not all((await app.state.service.parts()).values()):  # type: ignore[union-attr]
        await asyncio.sleep(_READY_LOOK_S)
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"chronolens is ready at http://{shown}:{port}\n")
    sys.stdout.flush()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="chronolens_gateway", description="Serve the HTTP interface.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 picks a free one")
    parser.add_argument("--data-dir", type=Path, default=None, help="data folder (default: CHRONOLENS_DATA_DIR)")
    options = parser.parse_args()
    serve(options.host, options.port, options.data_dir)
