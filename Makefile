# `make demo` and `make test` set up all they need; a second call reuses what is there.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo compare test check format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable .
	@touch $@

# Trains a tiny family in place, breeds it by the kinship strategy, and shows what came out.
demo: $(INSTALLED)
	$(BIN)/evolve nursery runs/nursery
	$(BIN)/evolve run configs/demo.yaml
	$(BIN)/evolve tree runs/demo

# The same by the greedy strategy, which shares all scores that it can, and both side by side.
compare: demo
	$(BIN)/evolve run configs/demo.yaml --set name=demo-greedy --set strategy.name=greedy
	$(BIN)/evolve compare runs/demo runs/demo-greedy

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

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
