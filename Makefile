# `make` lists what can be made. Each target sets up .venv itself: Python 3.10+ and pip are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
OLDEST := .venv-oldest

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

# The stamp is newer than pyproject.toml once everything in it is installed.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -e '.[test,check,docs]'
	@touch $@

# The lowest version of everything that pyproject.toml names; uv finds and installs them.
$(OLDEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install -q --upgrade pip uv
	$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python --resolution lowest-direct -e '.[test]'
	@touch $@

setup: $(VENV)/installed  ## make .venv with the package and the tools of its tests and checks

demo: $(VENV)/installed  ## train a small SETR on generated scenes, or on a folder: make demo DATA=path/to/folder
	$(BIN)/python scripts/demo.py $(if $(DATA),--dataset $(DATA))

cards: $(VENV)/installed  ## write model_cards/ and the page of the model zoo from the recipes
	$(BIN)/python -c 'from pathlib import Path; from setr_hf.hub.zoo import write_zoo; write_zoo(Path("model_cards"), Path("docs/reference/model-zoo.md"))'

notebooks: $(VENV)/installed  ## execute the notebooks in docs/ anew and store what they print and show: minutes
	$(BIN)/python tests/helpers/notebooks.py

# The variable spares the announcement that MkDocs will have a successor.
docs: $(VENV)/installed  ## build docs/ as a site, without a network, and fail at the first warning
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: $(VENV)/installed  ## check formatting, lint, types, the import contract and the docs; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(MAKE) --no-print-directory docs

style: $(VENV)/installed  ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Each core has a process of its own; threads beside it would wait for each other most of the time.
test test-hostile test-long test-oldest: export OMP_NUM_THREADS := 1

test: $(VENV)/installed  ## run the tests on all cores; SETR_HF_DATA=folder adds those on real photos
	$(BIN)/python -m pytest -n auto

test-hostile: $(VENV)/installed  ## try 20,000 hostile inputs, and those that coverage guides, and say how they ended
	$(BIN)/pip install -q -e '.[hostile]'
	$(BIN)/python -m pytest -n auto -m hostile tests/hostile

test-long: $(VENV)/installed  ## run what takes hours: jobs interrupted and killed at many random moments, thousands of photos
	$(BIN)/python -m pytest -n auto --dist loadfile -rP -m long

test-oldest: $(OLDEST)/installed  ## run the core of the tests with the oldest versions that pyproject.toml admits
	$(OLDEST)/bin/python -m pytest -n auto -m 'not slow' tests/model tests/checkpoints tests/data tests/training

audit: $(OLDEST)/installed  ## look for known vulnerabilities in the oldest versions that pyproject.toml admits
	$(OLDEST)/bin/uv tool run -q pip-audit --skip-editable --path $(wildcard $(OLDEST)/lib/python3*/site-packages)

.PHONY: help setup demo cards notebooks docs check style test test-hostile test-long test-oldest audit
