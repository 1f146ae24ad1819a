PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-fast soak check lint format proto bench clean

install: $(INSTALLED)

# Rebuilt when the pins change.
$(INSTALLED): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/zorse demo

# Tests run side by side: more threads than cores would wait for each other at every small operation of torch.
test test-fast: export OMP_NUM_THREADS = 1

# A test that ends its process has failed. Its file is begun again in a new process, twice at most.
test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 2

# The inner loop, two to six minutes on two cores: no Ray, no server, no network, no tests that are marked slow.
test-fast: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		-m "not ray and not slow and not browser and not soak"

soak: install
	$(BIN)/python -m pytest -m soak -s

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint: install
	$(BIN)/ruff check --fix .

format: install
	$(BIN)/ruff format .

# The classes of gRPC's messages.
proto: install
	$(BIN)/python -m grpc_tools.protoc --proto_path . --python_out . --pyi_out . serving/grpc/open_inference.proto

# Benchmarks read these: a zip of the CycleGAN dataset, and a trained run of digits, which is made if it is missing.
HORSE2ZEBRA ?= data/horse2zebra.zip
DIGITS ?= runs/digits

bench: install
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.export
	$(BIN)/python -m benchmarks.host
	$(BIN)/python -m benchmarks.serve_engine
	$(BIN)/python -m benchmarks.batch
	$(BIN)/python -m benchmarks.loader $(HORSE2ZEBRA)
	test -d $(DIGITS) || $(BIN)/zorse train digits run.dir=$(DIGITS)
	$(BIN)/python -m benchmarks.projection $(DIGITS)
	$(BIN)/python -m benchmarks.serve_peers
	$(BIN)/python -m benchmarks.serve_profile
	$(BIN)/python -m benchmarks.serve_load
	$(BIN)/python -m benchmarks.serve_models
	$(BIN)/python -m benchmarks.serve_grpc

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
