# Everything happens in .venv, which `make setup` creates: nothing has to be activated.
PYTHON ?= python3
BIN := .venv/bin

# Another environment, active or half-active, must not leak into this one.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

# Dozens of processes import PyTorch in the tests: with bytecode each takes half as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all faults check format docs bench constraints clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: .venv/.ready  ## create .venv with graft, its runtime and all tools (once; later calls do nothing)

SOURCES := pyproject.toml runtime/pyproject.toml constraints.txt

# The core alone, without PyTorch; .venv/.ready adds the rest to the same environment, after which this is there too.
.venv/.core: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "graft needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 | head -n 1)"; \
	  echo "Name another one, for example: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null  # uv makes a .venv without it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e ./runtime -e .
	@touch $@

.venv/.ready: .venv/.core $(SOURCES)
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e ./runtime -e '.[dev]'
	@touch $@

demo: .venv/.core  ## train on 1,797 handwritten digits and predict three of them (into demo/)
	$(BIN)/python examples/digits.py demo/digits
	$(BIN)/graft fit demo/digits -o demo/model --force
	$(BIN)/graft predict demo/model demo/digits/3/0003.png demo/digits/5/0015.png demo/digits/8/0008.png

test: .venv/.ready  ## run the quick tests
	$(BIN)/python -m pytest

test-all: .venv/.ready  ## run all tests, the slow ones too
	$(BIN)/python -m pytest -m ""

faults: .venv/.ready  ## try the faults that people meet, and print what came of each
	PYTHONPATH=tests $(BIN)/python -m pytest -p faults -m fault -q

check: .venv/.ready  ## lint, check the format, check the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.ready  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: .venv/.ready  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

bench: .venv/.ready  ## measure the defaults on several data sets (long)
	$(BIN)/python bench/run.py

# The versions that are known to work together, for Python 3.11 and newer; no registry's address is written down.
constraints: .venv/.ready  ## renew constraints.txt with today's versions
	$(BIN)/uv pip compile pyproject.toml runtime/pyproject.toml --all-extras --universal --python-version 3.11 \
	  --upgrade --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-package graft-runtime \
	  --no-emit-package graft-vision \
	  --custom-compile-command "make constraints" --quiet --output-file constraints.txt

clean:  ## remove all that make and the tools have made, .venv and demo included
	rm -rf .venv demo site dist .coverage .coverage.* .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
