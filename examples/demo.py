"""The front door: start the service, explain the sample clip over HTTP, keep what came back, say it in words, stop the service.

Run by ``make demo``; any failure ends it with a non-zero exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from chronolens.client import Client
from chronolens.summary import explanation_lines

SAMPLE = Path(__file__).with_name("sample.mp4")
READY_WITHIN_S = 300.0  # the first start of a model server exports the models for it
STOP_WITHIN_S = 20.0
say = Console()


@contextmanager
def service(data: Path, engine: str) -> Iterator[str]:
    """Run ``chronolens serve`` on a free port of this machine and yield its URL once it can answer."""
    command = [sys.executable, "-m", "chronolens_gateway", "--host", "127.0.0.1", "--port", "0"]
    log = (data / "service.log").open("w+b")
    environment = {**os.environ, "CHRONOLENS_DATA_DIR": str(data), "CHRONOLENS_ENGINE": engine}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        deadline = threading.Timer(READY_WITHIN_S, process.terminate)
        deadline.start()
        line = process.stdout.readline() if process.stdout else ""  # printed once the service can answer
        deadline.cancel()
        if not line:
            log.seek(0)
            raise SystemExit(f"the service did not become ready\n{log.read().decode(errors='replace')[-4000:]}")
        yield line.strip().rsplit(" ", 1)[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


def explain(client: Client, clip: Path, model: str, out: Path) -> dict[str, Any]:
    """Explain a clip, show how far it is, and write result and artefacts into ``out``."""
    columns = (TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with Progress(*columns, console=say) as bar:
        tasks: dict[str, Any] = {}

        def show(job: dict[str, Any]) -> None:
            if progress := job["progress"]:
                phase = progress["phase"]
                if phase not in tasks:
                    for earlier in tasks.values():
                        bar.update(earlier, completed=bar.tasks[earlier].total)
                    tasks[phase] = bar.add_task(phase, total=progress["total"])
                bar.update(tasks[phase], completed=progress["done"], total=progress["total"])

        result = client.explain(clip, model=model, on_progress=show)
    out.mkdir(parents=True, exist_ok=True)
    for artefact in result["artefacts"]:
        client.download(artefact, out)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SAMPLE, help="video file to explain")
    parser.add_argument("--model", default="i3d-synthetic", help="name of a served model")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for what comes back")
    parser.add_argument("--engine", default=os.environ.get("CHRONOLENS_ENGINE", "local"), help="what runs the models; see docs/engines.md")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chronolens-demo-") as data, service(Path(data), options.engine) as url, Client(url) as client:
        say.print(f"service ready at {url} after {time.monotonic() - started:.1f} s", highlight=False)
        result = explain(client, options.clip, options.model, options.out)
    say.print(*explanation_lines(result), sep="\n", soft_wrap=True, markup=False)
    files = ", ".join(sorted(path.name for path in options.out.iterdir()))
    say.print(f"{options.out}/: {files}\ndone in {time.monotonic() - started:.0f} s; open {options.out}/panel.mp4", highlight=False)


if __name__ == "__main__":
    main()
