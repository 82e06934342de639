"""The job database: DBOS on SQLite (WAL) or PostgreSQL, and what gateway and runner must agree on.

Nothing here is ever unpickled: arguments and results are JSON, and the library's own pickle serialiser, which it falls back to for
rows that say so, is made to refuse.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from typing import Any

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from dbos import _serialization as dbos_serialization  # the only place where the pickle fallback can be closed
from sqlalchemy import make_url

from chronolens_gateway.settings import Settings

QUEUE = "explanations"
WORKFLOW = "explain"
# Part of what recovery matches on: with a new version, workers would not pick up jobs from before an upgrade.
APPLICATION_VERSION = "chronolens-jobs-1"
APPLICATION = "chronolens"


class PickleRefusedError(Exception):
    """A row of the database asks for unpickling, which would run whatever it holds."""


def refuse_pickle() -> None:
    """Make the library's default serialiser refuse, for good; called once at the start of every process that uses the database.

    A workflow whose arguments are refused is recorded as failed; its error goes through the same serialiser, so writing is harmless
    text that nothing will ever read back.
    """

    def refuse(_self: Any, _data: Any) -> Any:
        raise PickleRefusedError("the job database holds pickled data")

    def as_text(_self: Any, data: Any) -> str:
        return json.dumps(str(data))

    for name, method in (("deserialize", refuse), ("serialize", as_text)):
        setattr(dbos_serialization.DefaultSerializer, name, method)


def quiet() -> None:
    """Send the library's log lines the way of ours, warnings only; it would otherwise print to the console."""
    logger = logging.getLogger("dbos")
    logger.handlers = [logging.NullHandler()]
    logger.propagate = True
    logger.setLevel(logging.WARNING)


def migrate(settings: Settings) -> None:
    """Create the database or bring it up to date; several processes may do so at once."""
    DBOS.migrate(settings.job_database)
    url = make_url(settings.job_database)
    if url.get_backend_name() == "sqlite" and url.database:
        connection = sqlite3.connect(url.database, timeout=30)
        try:
            connection.execute("PRAGMA journal_mode=wal")  # lasts: it is a property of the file
        finally:
            connection.close()


def connect(settings: Settings) -> DBOSClient:
    """Return a client that enqueues, looks at and cancels jobs."""
    return DBOSClient(
        system_database_url=settings.job_database,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
        retry_connection_errors=False,
    )


def runner_config(settings: Settings) -> Any:
    """Return the library's configuration for a runner: no telemetry, no vendor service, JSON only."""
    return {
        "name": APPLICATION,
        "system_database_url": settings.job_database,
        "application_version": APPLICATION_VERSION,
        "executor_id": settings.executor_id,
        "serializer": DBOSPortableJSONSerializer(),
        "enable_otlp": False,
        "log_level": "WARNING",
        "max_executor_threads": 8,
    }
