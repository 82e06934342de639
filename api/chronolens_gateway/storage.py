"""Job folders on disk: what is put in, what came out, how far it is. All writes are atomic, so a reader never sees half a file.

``DATA/jobs/ID/``: ``job.json`` (what was asked), ``clip.safetensors`` (decoded frames, removed at the end), ``progress.json``,
``attempts.json``, ``result.json`` or ``problem.json``, and ``files/`` with the artefacts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chronolens.pipeline import HEAT_MAPS

_ID = re.compile(r"[0-9a-f]{32}\Z")
CLIP = "clip.safetensors"
REQUEST = "job.json"
RESULT = "result.json"
PROBLEM = "problem.json"
PROGRESS = "progress.json"
ATTEMPTS = "attempts.json"
FILES = "files"


class JobRemovedError(Exception):
    """The job's folder is gone: its owner has removed it while it was being worked on."""


def new_job_id() -> str:
    """Return 32 hexadecimal digits in the layout of a version 7 UUID: later ids sort after earlier ones, 74 bits are random."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | (7 << 76) | (secrets.randbits(12) << 64) | (2 << 62) | secrets.randbits(62)
    return f"{value:032x}"


def is_job_id(text: str) -> bool:
    """Return whether a text has the form of a job id, and so is safe as a folder name."""
    return _ID.match(text) is not None


class JobStorage:
    """The folders of all jobs.

    Args:
        root: data folder of the service.
    """

    def __init__(self, root: Path) -> None:
        self._jobs = root / "jobs"
        self._drafts = root / "drafts"
        self.uploads = root / "uploads"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self._jobs, self._drafts, self.uploads):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def sweep(self) -> None:
        """Remove uploads and drafts that a killed gateway left behind; only at the start, when none is in use."""
        for folder in (self._drafts, self.uploads):
            for leftover in folder.iterdir():
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)

    def create(self, job_id: str, request: dict[str, Any], clip: bytes, progress: dict[str, Any]) -> None:
        """Store a new job; it appears whole or not at all."""
        draft = Path(tempfile.mkdtemp(dir=self._drafts))
        try:
            (draft / FILES).mkdir()
            (draft / CLIP).write_bytes(clip)
            (draft / REQUEST).write_text(json.dumps(request), encoding="utf-8")
            (draft / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
            draft.rename(self._jobs / job_id)
        except BaseException:  # a full disk must not stay full because of us
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def exists(self, job_id: str) -> bool:
        """Return whether the job's data is there."""
        return (self._jobs / job_id / REQUEST).is_file()

    def remove(self, job_id: str) -> None:
        """Remove all data of a job; it vanishes at once, then the space is freed."""
        grave = self._drafts / f"removed-{job_id}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            (self._jobs / job_id).rename(grave)
        shutil.rmtree(grave, ignore_errors=True)

    def ids(self, before: str | None = None) -> Iterator[str]:
        """Yield the ids of all jobs, newest first, those older than ``before`` only."""
        names = sorted((name for name in os.listdir(self._jobs) if is_job_id(name)), reverse=True)
        return (name for name in names if before is None or name < before)

    def files(self, job_id: str) -> Path:
        """Return the folder of the job's artefacts."""
        return self._jobs / job_id / FILES

    def read(self, job_id: str, name: str) -> dict[str, Any] | None:
        """Return a JSON document of a job, None when it is not there."""
        try:
            document: dict[str, Any] = json.loads((self._jobs / job_id / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return document

    def write(self, job_id: str, name: str, document: dict[str, Any]) -> None:
        """Replace a JSON document of a job.

        Raises:
            JobRemovedError: the job has been removed meanwhile.
        """
        target = self._jobs / job_id / name
        draft = target.with_name(f".{name}.{secrets.token_hex(4)}")
        try:
            draft.write_text(json.dumps(document), encoding="utf-8")
            draft.replace(target)
        except FileNotFoundError as error:
            raise JobRemovedError(job_id) from error

    def read_clip(self, job_id: str) -> bytes:
        """Return the packed clip of a job.

        Raises:
            JobRemovedError: the job has been removed meanwhile.
        """
        try:
            return (self._jobs / job_id / CLIP).read_bytes()
        except FileNotFoundError as error:
            raise JobRemovedError(job_id) from error

    def drop_clip(self, job_id: str) -> None:
        """Remove the decoded frames of a job that has ended, and the heat maps that were kept for drawing."""
        (self._jobs / job_id / CLIP).unlink(missing_ok=True)
        (self.files(job_id) / HEAT_MAPS).unlink(missing_ok=True)
