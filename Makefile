# Two commands matter: `make demo` and `make test`. Both set everything up themselves in .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first interpreter that really is 3.11 or 3.12 (a version manager's shim may exist and fail).
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; \
	then echo $$p; break; fi; done)
RUN := .venv/bin/python
PYTEST_WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(PYTEST_WORKERS)

.PHONY: help bootstrap demo test lint unit cluster clean

help:
	@echo "make demo   annotate a few slices -> propagate -> learn -> segment -> export, with a report"
	@echo "make test   lint, types, import rules and all tests"
	@echo "make lint   lint, types and import rules alone"
	@echo "make cluster the tests on a real Ray cluster of this computer's processes (installs Ray, 300 MB)"
	@echo "make clean  remove .venv, caches and the demo's results"

bootstrap:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 was not found; install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) .ci/bootstrap.py

demo: bootstrap
	$(RUN) -m semiseg demo

lint: bootstrap
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	PYTHONPATH=SemiSegModule .venv/bin/lint-imports

# The panel's tests run by themselves: a Qt application shares no process with threads of others.
unit: bootstrap
	$(PYTEST) --ignore=Testing/gui --cov --cov-report= --cov-fail-under=0
	$(PYTEST) Testing/gui --cov --cov-append --cov-report=term:skip-covered --cov-report=xml

test: lint unit

# Apart from `make test`: a cluster of several processes with ports of its own, and a large package.
cluster: bootstrap
	$(RUN) -m pip install --quiet -e '.[ray]'
	OMP_NUM_THREADS=1 $(RUN) -m pytest Testing/unit/test_distributed_cluster.py Testing/remote/test_remote_ray.py

clean:
	rm -rf .venv demo build dist .coverage* coverage.xml htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find Logic SemiSegModule Testing .ci -name __pycache__ -type d -prune -exec rm -rf {} +
