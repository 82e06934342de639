"""Ask another program something, whatever it does: crash, hang, talk without end, or not exist."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MOST_BYTES = 1 << 20
_LONGEST_TEXT = 300
PROBE_S = 90.0
"""PyTorch and a graphics card take some seconds to wake up, many more on a busy machine."""


class NoAnswerError(Exception):
    """It gave no answer; the text says in half a sentence why."""


@dataclass(frozen=True)
class Answer:
    """What a program wrote, standard error included, and its exit status."""

    text: str
    code: int


def ask(command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> Answer:
    """Run a program to its end.

    Raises:
        NoAnswerError: it cannot be started, or takes longer than ``timeout_s``.
    """
    # A group of its own, so that what it has started ends with it: a shell's child would keep the pipe open.
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    except OSError as error:
        raise NoAnswerError(f"cannot be started: {error.strerror}") from error
    late = threading.Event()

    def give_up() -> None:
        late.set()
        _end(process.pid)

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    with process:
        body = process.stdout.read(_MOST_BYTES) if process.stdout else b""
        if len(body) == _MOST_BYTES:
            _end(process.pid)
        code = process.wait()
    timer.cancel()
    if late.is_set():
        raise NoAnswerError(f"does not answer within {timeout_s:g} s")
    return Answer(body.decode("utf-8", "replace"), code)


def probe(*arguments: str, timeout_s: float = PROBE_S) -> dict[str, Any]:
    """Return what :mod:`chronolens.probe` answers.

    Raises:
        NoAnswerError: what is asked about does not work.
    """
    answer = ask([sys.executable, "-m", "chronolens.probe", *arguments], timeout_s)
    lines = [line for line in answer.text.splitlines() if line.startswith("{")]
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise NoAnswerError(f"the process that tried it ended with status {answer.code}") from None
    if isinstance(found.get("error"), str):
        raise NoAnswerError(plain(found["error"]))
    return found


def plain(text: str) -> str:
    """Return text of another program without what would move a terminal's cursor, and not too long."""
    return "".join(char if char.isprintable() else " " for char in text)[:_LONGEST_TEXT].strip()


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
