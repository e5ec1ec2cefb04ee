# `make demo` and `make test` install what they need; a second call reuses it.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo compare test check format docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable .
	@touch $@

# Train a tiny family, do a run with the kinship strategy, and show its family tree.
demo: $(INSTALLED)
	$(BIN)/evolve nursery runs/nursery
	$(BIN)/evolve run configs/demo.yaml
	$(BIN)/evolve tree demo

# Do the same with the greedy strategy, which reuses cached scores, and compare both.
compare: demo
	$(BIN)/evolve run configs/demo.yaml --set name=demo-greedy --set strategy.name=greedy
	$(BIN)/evolve compare demo demo-greedy

test: $(INSTALLED)
	$(BIN)/pytest --numprocesses 2 --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest --numprocesses 2 --dist loadfile

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Write the reference table of the configuration into docs/configuration.md.
docs: $(INSTALLED)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
