# Needs only Python (3.11 to 3.13) and make: every target sets up .venv by itself, once.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test quick coverage oldest lint docs format benchmark clean

demo: $(INSTALLED)  ## learn to forecast moving handwritten digits, verify, write a report
	$(BIN)/convlstm demo

# A worker for each core, each with one thread: two pools of threads on the same cores slow each other down.
# Neighbouring tests share what they build, so a worker has many of them; an idle one takes over some.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: $(INSTALLED)  ## every test
	$(PYTEST)

coverage: $(INSTALLED)  ## every test, and the lines and branches that none of them runs (half as long again)
	$(PYTEST) --cov --cov-report=term

quick: $(INSTALLED)  ## the tests that take seconds
	$(PYTEST) -m "not long"

oldest: BIN := .venv-oldest/bin
oldest: .venv-oldest/.installed  ## every test with the lowest versions that pyproject.toml names, on Python 3.11
	$(PYTEST)

lint: $(INSTALLED)  ## style, docstrings, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)  ## the documentation, into site/; a warning, such as a broken link, is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

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

OLDEST_PYTHON ?= python3.11

.venv-oldest/.installed: pyproject.toml .ci/oldest.py
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check packaging
	.venv-oldest/bin/python .ci/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' .venv-oldest/constraints.txt)
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-oldest/constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
