# Everything one does with the project. Each target sets up what it needs: on a fresh machine with Python 3.10+ and pip,
# `make demo` or `make test` is all there is to type. ARGS= is handed on to the program behind a target.

PYTHON ?= python3
VENV ?= .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow bench conformance search-conformance docs lint format clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make the environment in .venv and install into it

# Made once, and again when the dependencies change. The stamp is written last: an installation cut short is resumed.
# Some systems ship Python without ensurepip; there, the pip we came with installs itself into the environment.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "graphopt needs Python 3.10 or later: make PYTHON=/path/to/python"; exit 1; }
	@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) \
		|| { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(VENV_PYTHON) install pip; }
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

demo: $(INSTALLED) ## run the main job (ARGS="--help" lists its options)
	$(VENV_PYTHON) -m graphopt demo $(ARGS)

test: $(INSTALLED) ## run the tests, at most 8 minutes on 2 cores
	$(VENV_PYTHON) -m pytest -m "not slow" -n 2 $(ARGS)

test-slow: $(INSTALLED) ## run the tests that take long
	$(VENV_PYTHON) -m pytest -m slow $(ARGS) || test $$? -eq 5 # 5: there are none

bench: $(INSTALLED) ## run the benchmarks: ratios within one run, then timings to compare over time
	$(VENV_PYTHON) bench/foundation.py
	$(VENV_PYTHON) bench/loops.py
	$(VENV_PYTHON) bench/replay.py
	$(VENV_PYTHON) bench/shared.py
	$(VENV_PYTHON) bench/low_latency.py
	$(VENV_PYTHON) bench/cluster.py
	$(VENV_PYTHON) bench/metg.py
	$(VENV_PYTHON) bench/chunks.py
	$(VENV_PYTHON) bench/numba_cache.py
	$(VENV_PYTHON) bench/glm.py --rounds 1 --limit 5
	$(VENV_PYTHON) bench/real.py --rounds 1
	$(VENV_PYTHON) bench/saga.py --quick
	$(VENV_PYTHON) bench/outofcore.py --rows 1000000 --gib 2
	$(VENV_PYTHON) bench/solver_overhead.py
	$(VENV_PYTHON) bench/consensus.py --rounds 1
	$(VENV_PYTHON) bench/search.py --rounds 1
	$(VENV_PYTHON) -m pytest bench --benchmark-only $(ARGS)

conformance: $(INSTALLED) ## run dask's own array tests with graphopt, and list what fails only then
	$(VENV_PYTHON) bench/conformance.py $(ARGS)

search-conformance: $(INSTALLED) ## run scikit-learn's own tests of its searches with ours
	$(VENV_PYTHON) bench/search_conformance.py $(ARGS)

docs: $(DOCS_INSTALLED) ## build the documentation into docs/_build/html
	$(VENV_PYTHON) -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: $(INSTALLED) ## check style and types
	@failed=0; for check in "ruff check ." "ruff format --check ." mypy; do \
		echo "$$check"; $(VENV_PYTHON) -m $$check || failed=1; \
	done; exit $$failed

format: $(INSTALLED) ## put the style right where that can be done automatically
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

clean: ## remove caches and everything that was built
	rm -rf build dist docs/_build .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)
