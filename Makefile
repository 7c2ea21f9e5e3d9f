# The commands of CONTRIBUTING.md. PYTHON may be set: make test PYTHON=python3.11
PYTHON ?= python3

.PHONY: install test fresh versions lint types format

install:
	$(PYTHON) -m pip install -e ".[dev]"

# Two processes of one thread each: the tests are many and small. Each begins with half of them, in
# their order, so that what a file shares is made once.
test:
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n 2 --dist worksteal

# New random numbers and ten times as many examples: for a night.
fresh:
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n 2 --dist worksteal --fresh

# The oldest allowed releases and the newest that exist, in fresh environments; writes the table.
versions:
	$(PYTHON) tests/versions.py

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
