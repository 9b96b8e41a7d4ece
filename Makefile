# Everything here works on a fresh clone with nothing but Python 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# the models of demo and tests are tiny: threads would only wait for each other
export OMP_NUM_THREADS ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help demo test test-long check style generated bench clean

help:  ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

demo: $(READY)  ## run the whole loop on this machine, about two minutes
	$(BIN)/hub-fusion demo

test: $(READY)  ## the tests, without the long proofs
	$(BIN)/pytest -m "not slow"

test-long: $(READY)  ## the long proofs too: every kill point, long fuzzing
	$(BIN)/pytest

check: $(READY)  ## what CI runs: lint, format, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

style: $(READY)  ## format and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generated: $(READY)  ## rewrite JSON Schemas, golden lineage and the example card from the code
	$(BIN)/python -m hub_fusion.records
	$(BIN)/python tests/golden/make_lineage.py
	$(BIN)/python -m hub_fusion.publish.card

# every benchmark takes --size; modules that benchmarks share do nothing as scripts
bench: $(READY)  ## all benchmarks at a small size (each one alone: the full size, which is slow)
	@for script in benchmarks/*/*.py; do $(BIN)/python "$$script" --size small || exit 1; done

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
