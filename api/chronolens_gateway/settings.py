"""What an operator may set, from the environment (prefix ``CHRONOLENS_``) or by keyword; there is no global settings object."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

import chronolens
from chronolens import plugin_names
from chronolens.errors import PluginError
from chronolens.store import default_store

_LONGEST_SOCKET_PATH = 100
Engine = Literal["local", "onnx", "torchserve", "triton-http", "triton-grpc"]


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "chronolens"


class Settings(BaseSettings):
    """One service.

    Args:
        engine: what runs the models: ``local`` worker processes, the same with ``onnx`` graphs, ``torchserve``, or Triton over
            ``triton-http`` or ``triton-grpc``.
        engine_folder: run folder of TorchServe or Triton, where its addresses (and TorchServe's keys) are; in ``data_dir`` when None.
        model_store: folder with ``weights.toml``.
        plugins: functions ``module:function`` that bring own models, commas between them; installed packages bring theirs unasked, unless
            ``none`` is among the words.
        data_dir: jobs, artefacts, uploads and the embedded database live here.
        database_url: SQLAlchemy address of the job database; SQLite in ``data_dir`` when None.
        engine_socket: Unix socket of the worker pool; a private one in ``data_dir`` when None.
        embedded: start and keep alive the engine and the runner as children of the gateway.
        executor_id: name of the runner; two running runners must never share one.
        max_clip_bytes: largest accepted clip.
        decode_slots: clips that are decoded at the same time.
        predict_slots: predictions that are computed at the same time; the others wait.
        workers, worker_memory_bytes, hang_s, max_waiting: of the worker pool, see :class:`chronolens.pool.pool.PoolOptions`.
        predict_timeout_s: longest wait of a prediction for the models, the queue included.
        max_wait_s: longest wait granted to ``Prefer: wait=N``.
        engine_patience_s: how long a job waits for a restarting engine worker.
    """

    model_config = SettingsConfigDict(env_prefix="CHRONOLENS_", frozen=True, extra="ignore")

    engine: Engine = "local"
    engine_folder: Path | None = None
    model_store: Path = Field(default_factory=default_store)
    plugins: str = ""
    data_dir: Path = Field(default_factory=_default_data_dir)
    database_url: str | None = None
    engine_socket: Path | None = None
    embedded: bool = True
    executor_id: str = "embedded"
    max_clip_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    decode_slots: int = Field(default=2, ge=1)
    predict_slots: int = Field(default=4, ge=1)
    workers: int = Field(default=1, ge=1)
    worker_memory_bytes: int | None = Field(default=None, ge=2**20)
    hang_s: float = Field(default=100.0, gt=0)
    max_waiting: int = Field(default=256, ge=1)
    predict_timeout_s: float = Field(default=30.0, gt=0)
    max_wait_s: float = Field(default=60.0, ge=0)
    engine_patience_s: float = Field(default=120.0, gt=0)

    @field_validator("plugins")
    @classmethod
    def _written_rightly(cls, value: str) -> str:
        try:
            plugin_names.listed(value)
        except PluginError as error:
            raise ValueError(error.detail) from error
        return value

    @property
    def run_dir(self) -> Path:
        """Folder of the lock, the heart beat and the socket."""
        return self.data_dir / "run"

    @property
    def socket(self) -> Path:
        """Socket of the engine worker; the system allows about 100 bytes of path, so a deep data folder gets one elsewhere."""
        if self.engine_socket is not None:
            return self.engine_socket
        inside = self.run_dir.absolute() / "engine.sock"
        if len(os.fsencode(inside)) <= _LONGEST_SOCKET_PATH:
            return inside
        digest = hashlib.sha256(os.fsencode(self.data_dir.absolute())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"chronolens-{os.getuid()}-{digest}" / "engine.sock"

    @property
    def server_folder(self) -> Path:
        """Run folder of a model server."""
        return self.engine_folder or self.run_dir / self.engine.partition("-")[0]

    @property
    def exports(self) -> Path:
        """Where exported artefacts are kept: in the model store; in ``data_dir`` when that cannot be written or belongs to the package."""
        inside = self.model_store / "exports"
        writable = os.access(inside if inside.exists() else self.model_store, os.W_OK)
        packaged = self.model_store.resolve().is_relative_to(Path(chronolens.__file__).resolve().parent)
        return inside if writable and not packaged else self.data_dir / "exports"

    @property
    def job_database(self) -> str:
        """Address of the job database."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'jobs.sqlite'}"

    def prepare(self) -> None:
        """Make the folders, readable by this user only.

        Raises:
            PermissionError: somebody else has made the folder of the socket before us.
        """
        for folder in (self.data_dir, self.run_dir, self.socket.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.engine_socket is None and self.socket.parent.stat().st_uid != os.getuid():
            raise PermissionError("the folder of the engine's socket belongs to another user")

    def environment(self) -> dict[str, str]:
        """Return these settings as the environment of a child process."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {f"CHRONOLENS_{name.upper()}": str(value) for name, value in values.items()}
