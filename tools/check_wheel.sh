#!/usr/bin/env bash
# Build the wheel and use it where the sources are out of reach: code, shipped weights and the command must come from the wheel itself.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
.venv/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$scratch" .
# Dependencies are borrowed by a path file, which does not run the path file of the editable install.
.venv/bin/python -m venv --without-pip "$scratch/venv"
borrowed=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$("$scratch/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$borrowed" >"$own/dependencies.pth"
.venv/bin/pip install --quiet --no-deps --target "$own" "$scratch"/chronolens-*.whl
if .venv/bin/python -m zipfile -l "$(ls "$scratch"/chronolens-*.whl)" | grep -E 'exports/|__pycache__'; then
    echo 'the wheel holds what was made on this machine'
    exit 1
fi
cp examples/sample.mp4 "$scratch/clip.mp4"
cd "$scratch"
venv/bin/python - <<'PYTHON'
import sys
from pathlib import Path

import chronolens
from chronolens.export.recipe import handlers
from chronolens.store import default_store
from chronolens_gateway.servers.torchserve import LOG, METRICS

for found in (Path(chronolens.__file__), default_store(), handlers() / "torchserve_handler.py", LOG, METRICS):
    if not found.exists():
        sys.exit(f"not in the wheel: {found}")
    if not found.is_relative_to(sys.prefix):
        sys.exit(f"not from the wheel: {found}")
PYTHON
venv/bin/python -c 'from chronolens.cli import main; main()' predict clip.mp4 --model i3d-synthetic
venv/bin/python -c 'from chronolens.cli import main; main()' export mar clstm-synthetic --out archive
