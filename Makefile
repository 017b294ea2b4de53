# make demo   set everything up, then run the whole pipeline on the embedded data, ending in the table
# make test   set everything up, then run every check and test
# INDEX=URL   an extra wheel index, such as the one with torch's CPU builds (see docs/install.md)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(if $(INDEX),--extra-index-url $(INDEX))

.PHONY: demo test check setup clean

demo: setup
	$(BIN)/mmbal demo

test: check
	$(BIN)/python -m pytest -n 2

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

setup: $(VENV)/.ready

# torch first and pinned: asked for through another package, pip would take its newest CUDA build
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmbal needs Python 3.11 or newer; found " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No virtual environment: install your system's python3-venv package." >&2; exit 1; }
	@echo "installing pinned packages into $(VENV) (about a minute, 1.3 GB)"
	@$(PIP) torch
	@$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
