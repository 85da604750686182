# `make` lists what can be made. Each target sets up .venv itself: Python 3.10+ and pip are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

# The stamp is newer than pyproject.toml once everything in it is installed.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -e '.[test,style]'
	@touch $@

setup: $(VENV)/installed  ## make .venv with the package, its test and its style tools

demo: $(VENV)/installed  ## train a small SETR on generated scenes, or on a folder: make demo DATA=path/to/folder
	$(BIN)/python scripts/demo.py $(if $(DATA),--dataset $(DATA))

test: $(VENV)/installed  ## run the tests; SETR_HF_DATA=folder adds those on real photographs
	$(BIN)/python -m pytest

style: $(VENV)/installed  ## format the code and check its style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: help setup demo test style
