# `make demo` and `make test` need only Python (>= 3.10), make and git: the environment is made on the first call.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

.PHONY: install demo test check format clean help

install: $(VENV)/.installed  ## make the environment (.venv) and install the package with its development tools

demo: install  ## phantoms -> dataset -> teacher -> students -> comparison table, figure and models, in demo/
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/demo/demo.sh $(DEMO)

test: install  ## run the whole test suite
	$(BIN)/python -m pytest

check: install  ## ruff and mypy, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what demo and the tools made (the environment stays)
	rm -rf $(DEMO) build dist .mypy_cache .pytest_cache .ruff_cache

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12
