# The five commands of a developer, from the root of the repository. For the active environment: make BIN= test
BIN ?= .venv/bin/
export OMP_NUM_THREADS ?= 1

.PHONY: test lint types docs mutants

test:     # all tests but the slow ones
	$(BIN)python -m pytest -q -n 2

lint:     # style, format and the rule of imports
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	PYTHONPATH=src $(BIN)lint-imports

types:    # mypy, strict for some packages
	$(BIN)mypy

docs:     # the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)mkdocs build --strict

mutants:  # break the library on purpose: do the tests notice?
	$(BIN)python tests/guarantees/mutants.py
