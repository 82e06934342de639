"""``python -m chronolens_gateway.doctor [--json]``: which engines are usable on this machine, and why the others are not.

Ends with 0 when ``chronolens serve`` would work with the configured engine, else with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from rich.console import Console

from chronolens_gateway.doctor.engines import diagnose, probe_all
from chronolens_gateway.doctor.machine import machine_facts, machine_findings, read_settings, read_store
from chronolens_gateway.doctor.table import show


def main() -> int:
    """Examine and report; return the exit status."""
    parser = argparse.ArgumentParser(prog="chronolens doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    as_json = parser.parse_args().json
    settings, wrong = read_settings()
    store = read_store(settings.model_store)
    machine = wrong + machine_findings(settings, store)
    engines = diagnose(settings, store, probe_all(store))
    usable = not machine.missing and any(one.usable for one in engines if one.engine == settings.engine)
    if as_json:
        facts = {"configured": settings.engine, "usable": usable, **asdict(machine), "machine": machine_facts(settings, store)}
        sys.stdout.write(json.dumps({**facts, "engines": [one.to_json() for one in engines]}) + "\n")
    else:
        show(Console(), settings.engine, machine, engines)
    return 0 if usable else 1


if __name__ == "__main__":
    sys.exit(main())
