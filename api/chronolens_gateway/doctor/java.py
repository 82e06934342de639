"""The Java that TorchServe would run on."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from chronolens_gateway.doctor.ask import NoAnswerError, ask
from chronolens_gateway.doctor.findings import Findings, lacking

WANTED = 17
ANSWER_S = 20.0
_VERSION = re.compile(r'version "(\d+)(?:\.(\d+))?([^"\s]{0,40})"')
_INSTALL = "apt-get install openjdk-17-jre-headless"


def java_findings() -> Findings:
    """Look for Java where TorchServe's launcher does: ``JAVA_HOME``, then the path."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home, "bin", "java")) if home else shutil.which("java")
    repair = f"{_INSTALL}, and point JAVA_HOME at it or unset it" if home else _INSTALL
    if program is None:
        return lacking(f"Java {WANTED}", repair)
    try:
        answer = ask([program, "-version"], ANSWER_S)
    except NoAnswerError as error:
        return lacking(f"Java {WANTED}: {program} {error}", repair)
    version = java_version(answer.text)
    if answer.code or version is None:
        return lacking(f"Java {WANTED}: {program} does not tell its version", repair)
    major, text = version
    if major < WANTED:
        return lacking(f"Java {WANTED}: {program} is Java {text}", repair)
    return Findings((f"Java {text}, {program}",))


def java_version(text: str) -> tuple[int, str] | None:
    """Return the major version and the whole of it from what ``java -version`` says; None when it says none."""
    told = _VERSION.search(text)
    if told is None:
        return None
    first, second, rest = told.groups()
    # up to Java 8 it was called 1.8
    return int(second if first == "1" and second else first), f"{first}{f'.{second}' if second else ''}{rest}"
