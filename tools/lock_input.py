"""Print the requirements that ``make lock`` resolves: everything in pyproject.toml except torch, plus what torch itself needs.

With ``--engines`` those of the extras for model servers and exports too.
"""

import sys
import tomllib
from pathlib import Path

TORCH_NEEDS = ["filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"]
ENGINES = ("onnx", "torchserve", "triton")

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
wanted = [entry for entry in project["project"]["dependencies"] if not entry.startswith("torch==")]
wanted += project["dependency-groups"]["dev"] + project["build-system"]["requires"] + TORCH_NEEDS
if "--engines" in sys.argv[1:]:
    extras = project["project"]["optional-dependencies"]
    wanted += [entry for name in ENGINES for entry in extras[name]]
print("\n".join(wanted))
