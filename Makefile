# Four commands do all the set-up on a fresh machine:
#   make demo            the whole way on synthetic speech (SMOKE=1: the same path in under two minutes)
#   make bench           every claim about speed that a CPU can check (QUICK=1: toy sizes, a few minutes)
#   make test            lint, types, tests (the demo at its smoke size is one); the last lines name what was skipped
#   make coverage        the tests again, with the share of lines and branches that they reach

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS ?= tests
# One process more than the two cores of a small machine: many tests wait for a child or for the disk.
WORKERS ?= 3
FAIRSEQ2_PYTHON ?=

.PHONY: setup demo bench test coverage lint types tests clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or later is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,bpe,dev]' -c constraints.txt
	touch $@

demo: $(READY)
	$(BIN)/speechssl demo $(if $(SMOKE),--smoke --output demo-smoke)

$(VENV)/.bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench,fast]' -c constraints.txt
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(FAIRSEQ2_PYTHON),--fairseq2-python $(FAIRSEQ2_PYTHON))

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

tests: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS) -n $(WORKERS) --dist worksteal --durations=15 $(MEASURE)

coverage: MEASURE = --cov --cov-report=term --cov-fail-under=85
coverage: tests

test: lint types tests

clean:
	rm -rf $(VENV) demo-smoke .coverage .coverage.* .mypy_cache .ruff_cache
