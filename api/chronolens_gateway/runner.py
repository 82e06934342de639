"""The process that works on jobs: ``python -m chronolens_gateway.runner``, set up by ``CHRONOLENS_`` variables. No torch, no port.

One runner a data folder: it holds a lock, because two processes under one name would work on the same job. A runner that starts
takes up again what the one before it left behind.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

from dbos import DBOS

from chronolens_gateway import database, logs
from chronolens_gateway.backends.choose import open_backend
from chronolens_gateway.settings import Settings
from chronolens_gateway.storage import JobStorage
from chronolens_gateway.workflow import Context, register

BEAT = "runner.beat"
BEAT_S = 0.5
STALE_S = 5.0
_POLL_S = 0.2
_LOCK_PATIENCE_S = 10.0
_log = logging.getLogger("chronolens_gateway.runner")


def alive(settings: Settings) -> bool:
    """Return whether a runner of this data folder has shown a sign of life within the last seconds."""
    try:
        return time.time() - (settings.run_dir / BEAT).stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def main() -> None:
    """Work on jobs until told to stop."""
    logs.configure("runner")
    settings = Settings()
    settings.prepare()
    lock = _lock(settings.run_dir / "runner.lock")
    if lock is None:
        _log.error("another runner uses this data folder")
        sys.exit(1)
    storage = JobStorage(settings.data_dir)
    storage.prepare()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _launch(settings, storage)
    _log.info("runner ready")
    beat = settings.run_dir / BEAT
    while not stop.wait(BEAT_S):
        beat.touch()
    beat.unlink(missing_ok=True)
    # Work in hand is left where it is: each finished step is a checkpoint, and the next start goes on from there.
    logging.shutdown()
    os._exit(0)


def _launch(settings: Settings, storage: JobStorage) -> None:
    database.refuse_pickle()
    database.quiet()
    database.migrate(settings)
    DBOS(config=database.runner_config(settings))
    register(Context(storage, open_backend(settings), settings.engine_patience_s))
    DBOS.listen_queues([database.QUEUE])
    database.quiet()
    DBOS.launch()
    # One job at a time: the engine computes one request at a time, and a job that kills its runner takes no other with it.
    DBOS.register_queue(database.QUEUE, worker_concurrency=1, polling_interval_sec=_POLL_S, on_conflict="always_update")


def _lock(path: Path) -> IO[bytes] | None:
    """Return the locked file, None when somebody else holds it; the lock ends with the process, however it ends."""
    file = path.open("ab")
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                return None
            time.sleep(0.1)
        else:
            return file


if __name__ == "__main__":
    main()
