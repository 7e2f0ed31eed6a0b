.PHONY: demo kernels kernel-table gpu test test-long lint types format proto bench clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.server: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[server]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[server,dev]'
	@touch $@ $(VENV)/.server

$(VENV)/.bench: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@ $(VENV)/.dev $(VENV)/.server

demo: $(VENV)/.server ## search the shipped gallery, rerank, caption, ask; demo-out/*.png
	$(BIN)/mplug demo

kernels: $(VENV)/.server ## compile the CUDA kernels, where nvcc is; everything works without them
	PYTHONPATH=kernels $(BIN)/python -m mplug_kernels.build

kernel-table: $(VENV)/.server ## compile every kernel for every architecture; compile_table.json and docs/kernels.md
	PYTHONPATH=kernels $(BIN)/python -m bench.compile_gate
	PYTHONPATH=kernels $(BIN)/python -m bench.page

gpu: ## check and time the kernels on this machine's GPU; needs torch and numpy, writes kernels/bench/results
	PYTHONPATH=kernels $(PYTHON) -m bench.gpu

test: $(VENV)/.dev ## the suite
	$(BIN)/python -m pytest -m 'not long'

test-long: $(VENV)/.dev ## the tests that take minutes
	$(BIN)/python -m pytest -m long

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.dev ## regenerate proto/mplug_api/v1/*_pb2*
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto \
	    --python_out=proto --grpc_python_out=proto --mypy_out=proto --mypy_grpc_out=proto \
	    proto/mplug_api/v1/*.proto

bench: $(VENV)/.bench ## measure ratios and write them to docs/benchmarks.md
	PYTHONPATH=tests $(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
