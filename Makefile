# The front door: `make demo` and `make test` work from a bare clone with Python 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

ENGINES := $(VENV)/.engines
TRITON := .venv-triton/.ready

.PHONY: setup engines triton-server demo serve torchserve triton contract test lint lock clean

setup: $(READY)

# Locked and hashed first, so that torch finds what it needs already there and pulls no second copy of anything.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "chronolens needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

# What TorchServe, Triton and ONNX Runtime need on top. TorchServe also needs Java 17, Triton a server: see docs/engines.md.
engines: $(ENGINES)

$(ENGINES): $(READY) constraints-engines.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r constraints-engines.txt
	touch $(ENGINES)

# `make demo ENGINE=torchserve` passes through TorchServe, ENGINE=triton-grpc through Triton.
ENGINE := local
demo: $(if $(filter local,$(ENGINE)),$(READY),$(ENGINES) $(if $(filter triton%,$(ENGINE)),$(TRITON)))
	$(BIN)/python examples/demo.py --engine $(ENGINE)

serve: $(READY)
	$(BIN)/chronolens serve

# The archives go to model_store/exports; TorchServe itself keeps to loopback, callers speak to the gateway.
torchserve: $(ENGINES)
	$(BIN)/chronolens serve --engine torchserve

triton: $(ENGINES) $(TRITON)
	$(BIN)/chronolens serve --engine triton-grpc

# A real tritonserver that needs no container and no GPU; only its files are used, so none of its dependencies is installed.
triton-server: $(TRITON)

$(TRITON): constraints-triton.txt
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/pip install --quiet --no-deps --require-hashes -r constraints-triton.txt
	touch $(TRITON)

# The same questions to every engine.
contract: $(ENGINES) $(TRITON)
	$(BIN)/python -m pytest tests/contract

test: $(ENGINES) $(TRITON)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs uv on the path; the result is installed by pip. The wider set is resolved first, so that both agree.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock:
	{ head -2 constraints-engines.txt; $(PYTHON) tools/lock_input.py --engines | $(COMPILE) -; } > constraints-engines.new
	mv constraints-engines.new constraints-engines.txt
	grep -v '^ *--hash\|^#' constraints-engines.txt | sed 's/ *\\$$//' > constraints.names
	{ head -2 constraints.txt; $(PYTHON) tools/lock_input.py | $(COMPILE) --constraints constraints.names -; } > constraints.new
	mv constraints.new constraints.txt; rm constraints.names

clean:
	rm -rf $(VENV) .venv-triton demo-out model_store/exports build dist
