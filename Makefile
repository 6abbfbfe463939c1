# Every target sets up its own environment in .venv first; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
FIGURES := fig1 fig2 fig3a fig3b
ARGS ?=

.PHONY: help $(FIGURES) figures test lint bench clean

help:
	@echo "make fig1 | fig2 | fig3a | fig3b   one figure (ARGS='--data my_study' passes options on)"
	@echo "make figures                       all four on the example, and their pictures into figures/"
	@echo "make test                          style, types and tests"
	@echo "make bench                         how fast it is on this machine (about 20 minutes)"
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

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(RUN) -m pytest

clean:
	rm -rf $(VENV) data/example results .pytest_cache .mypy_cache .ruff_cache

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

bench: $(VENV)/.ready-dev
	$(RUN) benchmarks/bench_permutation.py
	$(RUN) benchmarks/bench_rois.py
	$(RUN) benchmarks/bench_loading.py
	$(RUN) benchmarks/bench_searchlight.py
	$(RUN) benchmarks/bench_activations.py
