# The two commands: `make demo` and `make test`. They need Python 3.11 or 3.12 and make, nothing else.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
SERVING ?=

.PHONY: help env demo test check chart-tools chart-check chart-docs kind-up kind-down bench lock format clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

env: $(STAMP) ## Make .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; none of python3.11, python3.12, python3 is one" >&2; exit 2; }
	@echo "Making $(VENV) with $(PYTHON) from requirements.lock" >&2
	$(PYTHON) -m venv --clear $(VENV)
	@awk '/^[a-z]/ { wanted = /^uv==/ } wanted' requirements.lock > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## The whole story on this machine: train, serve, drift, renew (ARGS="--exit --json out.json")
	@$(BIN)/fraudctl demo $(ARGS)

test: $(STAMP) ## Run the tests (ARGS="-m 'not slow'" for the quick ones)
	@$(BIN)/pytest $(ARGS)

check: $(STAMP) ## Everything CI asks for: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) chart-tools test

chart-tools: $(STAMP)
	@$(BIN)/python scripts/chart_tools.py >&2

chart-check: chart-tools ## Check the Helm chart; installs helm and kubeconform where they are missing
	@$(BIN)/pytest tests/chart $(ARGS)

chart-docs: $(STAMP) ## Write the chart's schema and the table of its README from its values and the settings
	@$(BIN)/python scripts/chart_docs.py

kind-up: $(STAMP) ## A kind cluster with the platform in it (ARGS: some of its parts, or --dry-run)
	@$(BIN)/python manifests/kind/cluster.py up $(ARGS)

kind-down: $(STAMP) ## Take that cluster and its registry away
	@$(BIN)/python manifests/kind/cluster.py down $(ARGS)

bench: $(STAMP) ## Run the benchmarks beside what a user would pick instead (ARGS: of training, SERVING: of serving)
	@$(BIN)/python -m benchmarks.training $(ARGS)
	@$(BIN)/python -m benchmarks.serving $(SERVING)

format: $(STAMP) ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## Write requirements.lock anew from pyproject.toml
	$(BIN)/python scripts/lock.py $(ARGS)

clean: ## Remove the environment and caches; state in .fraud stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
