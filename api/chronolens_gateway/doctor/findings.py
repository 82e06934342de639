"""What a check has found, and what is missing, with the way to repair it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from chronolens_gateway.settings import Engine


@dataclass(frozen=True)
class Missing:
    """What does not work, in half a sentence, and the command or setting that repairs it."""

    what: str
    repair: str


@dataclass(frozen=True)
class Findings:
    """Of one check; those of an engine are the sum of its checks'."""

    found: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        new = tuple(one for one in other.missing if one not in self.missing)
        return Findings(self.found + other.found, self.missing + new)


def lacking(what: str, repair: str) -> Findings:
    """Return the findings of a check that failed."""
    return Findings(missing=(Missing(what, repair),))


@dataclass(frozen=True)
class Diagnosis:
    """Of one engine.

    Args:
        findings: of all its checks.
        artefacts: ``fresh``, ``stale``, ``missing`` or ``unreadable`` by model; those that are not fresh are made at the first start.
    """

    engine: Engine
    findings: Findings
    artefacts: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether the engine would start."""
        return not self.findings.missing

    def to_json(self) -> dict[str, Any]:
        """Return it for the JSON output."""
        return {"engine": self.engine, "usable": self.usable, **asdict(self.findings), "artefacts": self.artefacts}
