"""The report for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chronolens_gateway.doctor.findings import Diagnosis, Findings
from chronolens_gateway.settings import Engine


def show(console: Console, configured: Engine, machine: Findings, engines: list[Diagnosis]) -> None:
    """Print what holds for all engines, and a row for each."""
    console.print(_lines(machine))
    table = Table(show_lines=True)
    table.add_column("engine", no_wrap=True)
    table.add_column("usable", no_wrap=True)
    table.add_column("what was found, and what is missing", overflow="fold")
    for one in engines:
        name = Text(f"{one.engine} *" if one.engine == configured else one.engine)
        table.add_row(name, Text("yes", "green") if one.usable else Text("no", "red"), _lines(one.findings, one.artefacts))
    console.print(table)
    console.print(Text("* the configured one (CHRONOLENS_ENGINE)"))


def _lines(findings: Findings, artefacts: dict[str, str] | None = None) -> Text:
    """Return the lines; never as markup: they hold paths and words of other programs."""
    lines = [Text(line) for line in findings.found]
    if artefacts:
        states = ", ".join(f"{name} {state}" for name, state in artefacts.items())
        later = "" if set(artefacts.values()) == {"fresh"} else " (what is not fresh is made at the first start, in minutes)"
        lines.append(Text(f"artefacts: {states}{later}"))
    for one in findings.missing:
        lines += [Text(f"missing: {one.what}", "red"), Text(f"  repair: {one.repair}", "bold")]
    return Text("\n").join(lines)
