# Needs only Python (3.11 to 3.13) and make: every target sets up .venv by itself, once.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test quick lint format benchmark clean

demo: $(INSTALLED)  ## learn to forecast moving handwritten digits, verify, write a report
	$(BIN)/convlstm demo

# A worker for each core, each with one thread: two pools of threads on the same cores slow each other down.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test: $(INSTALLED)  ## every test, with coverage
	$(PYTEST) --cov --cov-report=term

quick: $(INSTALLED)  ## the tests that take seconds
	$(PYTEST) -m "not long"

lint: $(INSTALLED)  ## style, docstrings, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(INSTALLED)
	$(BIN)/python -m benchmarks

# torch first and alone, so that no other package pulls in a second build of it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
