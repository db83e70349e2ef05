# DSFedMed Studio. `make demo` and `make test` need Python 3.11 and nothing else.
#
#   make setup          .venv with the pinned requirements (seconds when they are installed)
#   make ray            Ray into .venv, too: sites side by side in processes (backend = "ray")
#   make demo           the page on http://localhost:7860, with the demo run starting in the background
#   make demo-headless  the demo run in this terminal, ending with the results table
#   make test           lint and every test but the slow ones; browser tests drive a real Chromium
#   make test-all       the slow tests too
#   make mutate         deliberate errors in the method's code: how many turn a test red (MUTATE="--per-package 100")
#   make screenshots    every tab, wide and narrow, light and dark, into docs/screenshots
#   make lint           ruff and mypy
#   make clean          remove .venv and caches
#
# Variables: PYTHON (a Python 3.11), PORT (of the page), TESTS (what pytest runs), JOBS (test processes), and TORCH_INDEX,
# a package index whose torch and torchvision are taken instead of PyPI's: for CPU-only wheels, which are 2 GB smaller.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup ray demo demo-headless test test-all mutate screenshots lint chromium clean

PYTHON ?= python3.11
PORT ?= 7860
TESTS ?= tests
MUTATE ?=
SHOTS ?=
JOBS ?= 3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
RAY_STAMP := $(VENV)/.ray-stamp

# Three test processes of one thread, for two cores: the tests' models are too small to fill more threads, half of the
# time is spent in importing, and a quarter in waiting for browsers and other processes. A file stays in one process, for
# the sake of its fixtures, and the long ones begin early. The limit is for what hangs, not for what is slow: it is far
# above what a test takes on a busy machine.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) \
	--dist loadfile --no-loadscope-reorder --timeout=1800 --durations=15

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(STAMP)

# uv installs several times faster than pip and is pinned like the rest; where it cannot be had, pip does the same.
# Packages are compiled once, here: a process that may not write beside them (PYTHONDONTWRITEBYTECODE, a read-only image)
# would compile them anew each time it starts, 8 s for a run's worker.
$(STAMP): requirements.txt
	@command -v $(PYTHON) > /dev/null || { echo "make: Python 3.11 is needed; name it with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.txt)"; then \
	  install=("$(BIN)/uv" pip install --compile-bytecode --python "$(BIN)/python"); \
	else \
	  echo "make: uv could not be installed, going on with pip" >&2; \
	  install=("$(BIN)/python" -m pip install --disable-pip-version-check); \
	fi; \
	if [ -n "$(TORCH_INDEX)" ]; then \
	  "$${install[@]}" --no-deps --index-url "$(TORCH_INDEX)" $$(grep -E '^(torch|torchvision)==' requirements.txt); \
	fi; \
	"$${install[@]}" -r requirements.txt
	@touch $@

ray: $(RAY_STAMP)

$(RAY_STAMP): requirements-ray.txt $(STAMP)
	@if test -x $(BIN)/uv; then \
	  $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r requirements-ray.txt; \
	else \
	  $(BIN)/python -m pip install --disable-pip-version-check -r requirements-ray.txt; \
	fi
	@touch $@

demo: setup
	$(BIN)/python -m app.main --demo --port $(PORT)

demo-headless: setup
	$(BIN)/python -m engine run --preset phantom_cpu_demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup ray lint chromium
	$(BIN)/python -m compileall -q app engine export
	$(PYTEST) -m "not slow" $(TESTS)

test-all: setup ray lint chromium
	$(BIN)/python -m compileall -q app engine export
	$(PYTEST) $(TESTS)

# One thread a mutant: as many are on trial as there are cores.
mutate: setup
	$(BIN)/python -m bench.mutation $(MUTATE)

screenshots: setup chromium
	PYTHONPATH=.:tests/ui $(BIN)/python tests/ui/screenshots.py docs/screenshots $(SHOTS)

# Browser tests drive the system's Chromium; Playwright's own download is the last resort.
chromium: setup
	@if command -v chromium chromium-browser google-chrome google-chrome-stable > /dev/null; then \
	  true; \
	elif command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else \
	  $(BIN)/playwright install chromium; \
	fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis test-results build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
