# The front door: `make demo` and `make test` work from a bare clone with Python 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo serve test lint lock clean

setup: $(READY)

# Locked and hashed first, so that torch finds what it needs already there and pulls no second copy of anything.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "chronolens needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py

serve: $(READY)
	$(BIN)/chronolens serve

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs uv on the path; the result is installed by pip.
lock:
	{ head -2 constraints.txt; $(PYTHON) tools/lock_input.py | uv pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header -; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) demo-out build dist
