# Every target sets up what it needs in .venv: only make and a Python of 3.11 or newer must be there.
# PYTHON=/path/to/python chooses the interpreter; ARGS='...' is handed on by demo, test and bench.

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PINS := pyproject.toml constraints.txt
CANDIDATES := python3.14 python3.13 python3.12 python3.11 python3 python
# One thread a worker: workers times threads is what a machine has to carry.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
# Two pips in one environment would get in each other's way.
.NOTPARALLEL:
.PHONY: demo test lint docs bench clean help

help:
	@echo 'make demo    train two flows on the digits, audit both, compare them in runs/demo'
	@echo 'make test    run the tests'
	@echo 'make lint    ruff check, ruff format --check, pyright'
	@echo 'make docs    build the documentation into site/'
	@echo 'make bench   run the benchmarks'
	@echo 'make clean   delete what the other targets made, but for .venv'

demo: $(VENV)/.stamp-test
	$(BIN)/invertible demo $(ARGS)

test: $(VENV)/.stamp-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -q $(ARGS)

lint: $(VENV)/.stamp-lint
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/pyright

docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.stamp-test
	$(BIN)/python benchmarks/run_all.py $(ARGS)

clean:
	rm -rf site build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@for python in $(or $(PYTHON),$(CANDIDATES)); do \
		if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making $(VENV) with $$($$python --version)"; \
			exec $$python -m venv --clear $(VENV); \
		fi; \
	done; \
	echo 'No Python of 3.11 or newer with venv found (tried: $(or $(PYTHON),$(CANDIDATES))).' >&2; \
	echo 'Install one, on Debian with its python3-venv, or name it: make PYTHON=/path/to/python3.11 ...' >&2; \
	exit 1

# torch first and alone, so that nothing installed later can choose another.
$(VENV)/.stamp-torch: constraints.txt | $(BIN)/python
	@echo 'Installing torch (the first time this takes minutes)'
	@$(INSTALL) torch
	@touch $@

$(VENV)/.stamp-test: $(PINS) $(VENV)/.stamp-torch
	@echo 'Installing invertible and what its tests need'
	@$(INSTALL) -e '.[test]'
	@touch $@

# pyright reads the types of everything the package imports, hence on top of the test set-up.
$(VENV)/.stamp-lint: $(PINS) $(VENV)/.stamp-test
	@echo 'Installing ruff and pyright'
	@$(INSTALL) -e '.[lint]'
	@touch $@

$(VENV)/.stamp-docs: $(PINS) $(VENV)/.stamp-torch
	@echo 'Installing mkdocs'
	@$(INSTALL) -e '.[docs]'
	@touch $@
