"""Start the worker pool on ONNX Runtime: ``python -m chronolens_gateway.servers.onnx --store MODEL_STORE --exports FOLDER ...``.

Exports the graphs that are missing or stale and becomes the pool, so that a signal to this process stops it. What else is given goes to
:mod:`chronolens.pool.server`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from chronolens_gateway.servers.exports import ensure


def main() -> None:
    """Become the pool."""
    parser = argparse.ArgumentParser(prog="chronolens_gateway.servers.onnx", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="model store")
    parser.add_argument("--exports", type=Path, required=True, help="where artefacts are kept")
    asked, rest = parser.parse_known_args()
    models = ensure("onnx", asked.store, asked.exports)
    line = [sys.executable, "-m", "chronolens.pool.server", *rest, "--onnx", str(asked.exports), "--models", *models]
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
