# Everything works on a fresh clone: each target installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip
# Compiled once, here: where Python may not write bytecode, each process would do it.
INTO := --quiet --compile-bytecode --python $(BIN)/python

.PHONY: demo test chaos parity lint bench bench-gpu install lock

demo: install
	$(BIN)/atrous demo atrous-demo

test: install
	$(BIN)/pytest

# Whole runs while replicas, nodes, clusters, drivers and the store fail; half an hour.
chaos: install
	$(BIN)/pytest -m chaos

# Large networks against their peers, too slow for every change.
parity: install
	$(BIN)/pytest -m parity

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python tests/benchmarks/bench_cpu.py
	$(BIN)/python tests/benchmarks/bench_network.py
	$(BIN)/python tests/benchmarks/bench_seams.py

bench-gpu: install
	$(BIN)/python tests/benchmarks/bench_gpu.py

install: $(VENV)/locked
	@$(UV) install $(INTO) --no-deps --reinstall-package atrous .

$(VENV)/locked: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) install $(INTO) --require-hashes -r requirements.lock
	@touch $@

lock:
	$(UV) compile --quiet --universal --generate-hashes --no-header --upgrade \
		--group dev --output-file requirements.lock pyproject.toml
