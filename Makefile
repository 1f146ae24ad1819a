PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-fast soak check lint format bench clean

install: $(INSTALLED)

# Rebuilt when the pins change.
$(INSTALLED): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/zorse demo

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# The inner loop: no Ray, no server, no network, nothing that takes more than ten seconds.
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

bench: install
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.export
	$(BIN)/python -m benchmarks.loader
	$(BIN)/python -m benchmarks.host

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
