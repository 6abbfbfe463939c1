# Every target sets up its own environment in .venv first; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
FIGURES := fig1 fig2 fig3a fig3b
ARGS ?=

.PHONY: help $(FIGURES) figures method lint check test docs bench validate clean

help:
	@echo "make fig1 | fig2 | fig3a | fig3b   one figure (ARGS='--data my_study' passes options on)"
	@echo "make figures                       all four on the example, and their pictures into figures/"
	@echo "make test                          style, types, import rules and all tests"
	@echo "make check                         the same with the quick tests only"
	@echo "make docs                          this documentation and the API reference, as docs/_build/html"
	@echo "make bench                         how fast it is on this machine (about 20 minutes)"
	@echo "make validate                      levels, power and coverage of every claim (up to 40 minutes; resumable)"
	@echo "make clean                         remove the environment, the example and the results"

fig1: $(VENV)/.ready
	$(RUN) Fig1_individualdnns_searchlight.py $(ARGS)

fig2: $(VENV)/.ready
	$(RUN) Fig2_individualdnns_top3_ROIs.py $(ARGS)

fig3a: $(VENV)/.ready
	$(RUN) Fig3a_groupeddnns_searchlight.py $(ARGS)

fig3b: $(VENV)/.ready
	$(RUN) Fig3b_groupeddnns_ROIs.py $(ARGS)

# The pictures in figures/ are of the example, whatever lies in data/.
figures: $(VENV)/.ready
	$(RUN) -m utils.example
	$(MAKE) $(FIGURES) ARGS="--data data/example --no-open"
	$(RUN) figures/make_small.py

# The drawing of the method and the chart of the paper's bars in the README; they need no results.
method: $(VENV)/.ready
	$(RUN) figures/make_method.py
	$(RUN) figures/make_paper_bars.py

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

check: lint
	$(RUN) -m pytest -m "not slow and not browser and not gpu"

test: lint
	$(RUN) -m pytest

# Any warning of Sphinx ends the build, after all of them were shown. Pages of modules that are gone must not stay.
docs: $(VENV)/.ready-docs
	rm -rf docs/api
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

clean:
	rm -rf $(VENV) data/example results docs/_build docs/api .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "No virtual environment could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.ready: requirements.txt constraints.txt | $(VENV)/bin/python
	@echo "Installing what the scripts need into $(VENV) (once; several GB with PyTorch)"
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@

$(VENV)/.ready-docs: requirements-docs.txt $(VENV)/.ready
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt -c constraints.txt
	@touch $@

bench: $(VENV)/.ready-dev
	$(RUN) benchmarks/bench_permutation.py
	$(RUN) benchmarks/bench_rois.py
	$(RUN) benchmarks/bench_loading.py
	$(RUN) benchmarks/bench_searchlight.py
	$(RUN) benchmarks/bench_activations.py

# Goes on where it was interrupted; `make clean` or removing results/validation begins anew.
validate: $(VENV)/.ready-dev
	$(RUN) -m benchmarks.validation
