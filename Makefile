# Every command sets itself up: Python 3.11 or newer and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := $(VENV)/.stamp-dev
EXAMPLES := $(VENV)/.stamp-examples
PEERS := $(VENV)/.stamp-peers

# --no-compile: Python writes the bytecode of the modules that are used, at their first import.
INSTALL := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt

# That bytecode is kept, whatever the shell says: without it each process that a test starts compiles
# the sources of torch again, for seconds.
unexport PYTHONDONTWRITEBYTECODE
# Threads that wait in a spin make two busy programs on one machine crawl.
export OMP_WAIT_POLICY := passive
# Everything works offline once the packages are there; nothing is looked up in silence.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- for those who look --------------------------------------------------------------------------

.PHONY: demo
demo: $(EXAMPLES) ## a short run of the flagship: sentence ordering on real texts, about 5 minutes
	$(BIN)/python examples/sentence_ordering/train.py --texts 3600 --directory runs/demo

.PHONY: flagship
flagship: $(EXAMPLES) ## the full run of the flagship
	$(BIN)/python examples/sentence_ordering/train.py --texts 11200 --directory runs/flagship

.PHONY: bench
bench: $(PEERS) ## what a step costs, beside loops by hand and Poutyne, about 5 minutes
	$(BIN)/python benchmarks/run.py

.PHONY: bench-all
bench-all: $(PEERS) ## all benchmarks, about an hour; renews the tables in docs/performance.md
	$(BIN)/python benchmarks/run.py --workloads '[all]' --frameworks '[all]' --rounds 3 --results docs/performance-results.json

.PHONY: parity
parity: $(PEERS) ## the numbers of whole programs, beside those of Poutyne
	$(BIN)/python benchmarks/parity_with_poutyne.py

# --- for those who change something --------------------------------------------------------------

.PHONY: test
test: $(DEV) $(EXAMPLES) ## the test suite
	@$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

.PHONY: check check-format check-lint check-types
check: check-format check-lint check-types docs ## format, lint, types and documentation
check-format: $(DEV)
	$(BIN)/ruff format --check .
check-lint: $(DEV)
	$(BIN)/ruff check .
check-types: $(DEV)
	$(BIN)/mypy

.PHONY: format
format: $(DEV) ## put the format right, and what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: $(DEV) ## build the documentation into docs/_build/html
	$(BIN)/sphinx-build -q -n -W --keep-going -b html docs docs/_build/html
	@echo "The documentation is in docs/_build/html/index.html"

.PHONY: coverage
coverage: $(DEV) $(EXAMPLES) ## the test suite, with the share of lines and branches that it runs
	@$(BIN)/coverage run -m pytest -q
	@$(BIN)/coverage report --skip-covered

.PHONY: clean
clean: ## remove what these commands made, except runs/
	rm -rf $(VENV) docs/_build build dist .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment -----------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "clarion needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing clarion and its tools into $(VENV): about a minute, once."
	@$(INSTALL) -e '.[dev]'
	@touch $@

$(EXAMPLES): pyproject.toml constraints.txt examples/requirements.txt | $(BIN)/python
	@echo "Installing clarion and what the examples read into $(VENV): about a minute, once."
	@$(INSTALL) -e '.[examples]'
	@$(INSTALL) --no-deps -r examples/requirements.txt
	@touch $@

$(PEERS): $(DEV) benchmarks/requirements.txt
	@echo "Installing what the benchmarks compare with into $(VENV)."
	@$(INSTALL) -r benchmarks/requirements.txt
	@touch $@
