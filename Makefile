# What others call: install, demo, test, check, bench. Each works on a fresh clone with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_URL ?= $(RAGSTONE_VLLM_URL)

.PHONY: install demo test test-vllm check format bench bench-full bench-peers clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Ragstone needs Python 3.11 or later; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/ragstone demo

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile # most of a run is waiting for servers; each worker has its own

test-vllm: install
	RAGSTONE_VLLM_URL='$(VLLM_URL)' $(BIN)/python -m pytest tests/vllm # make test-vllm VLLM_URL=http://127.0.0.1:8001/v1

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks.bench

bench-full: install
	$(BIN)/python -m benchmarks.bench --size full

bench-peers: install
	$(BIN)/python -m benchmarks.peers.environments

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
