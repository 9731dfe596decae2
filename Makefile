# Everything runs from .venv, which the first target that needs it creates.
#   make demo    set up and run the main job: runs/quickstart.db and report.html
#   make test    set up and run the tests
# The rest: test-federated, lint, bench, paper, docs, setup, clean. PYTHON=/path/to/python chooses
# the interpreter.

SHELL   := /bin/bash
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.graphsec-dev
FLOWER  := .venv-federated
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# make test ARGS="tests/unit -k graph"
ARGS    ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-federated lint bench paper docs clean

help:
	@sed -n 's/^#   //p;s/^# The rest/The rest/p' Makefile

setup: $(STAMP)

demo: $(STAMP)
	@mkdir -p runs
	$(BIN)/graphsec run examples/quickstart.toml --store sqlite:///runs/quickstart.db \
		--report report.html --workers 2

test: $(STAMP)
	$(PYTEST) -n 2 $(ARGS)

# Flower holds typer, rich and packaging below the versions of $(VENV), so it has an environment of
# its own, small because the rest is read from $(VENV).
test-federated: $(FLOWER)/.graphsec-dev
	OMP_NUM_THREADS=1 $(FLOWER)/bin/python -m pytest tests/unit/test_flower.py -n 2 --durations 0 $(ARGS)

$(FLOWER)/.graphsec-dev: $(STAMP)
	$(BIN)/python -m venv --clear $(FLOWER)
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$($(FLOWER)/bin/python -c 'import site; print(site.getsitepackages()[0])')/graphsec-dev.pth"
	@# pip warns that tools of $(VENV) want other versions: they are not run from here.
	$(FLOWER)/bin/python -m pip install -q "$$($(BIN)/python -c \
		'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["federated"])')"
	@touch $@

bench: $(STAMP)
	$(PYTEST) -m bench tests/benchmarks -s -n 0 --timeout 0 $(ARGS)

paper: $(STAMP)
	$(PYTEST) -m paper tests/paper -s -n 0 --timeout 0 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy graphsec tests examples
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -W -b html docs docs/_build/html

clean:
	rm -rf $(VENV) $(FLOWER) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
		docs/_build
	find graphsec attacks defenses datasets tests examples -name __pycache__ -type d -prune \
		-exec rm -rf {} +

# A Python counts when it is 3.11 or newer and can make environments (Debian ships venv apart).
# 3.11 comes first: it is the newest one that DGL has wheels for.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1; then \
		for python in "$(PYTHON)" python3.11 "$$HOME"/.pyenv/versions/3.11*/bin/python \
				python3.12 python3.13 python3.14 python3 python; do \
			[ -n "$$python" ] && "$$python" -c '$(USABLE)' >/dev/null 2>&1 \
				&& found="$$python" && break; \
			[ -n "$$python" ] && [ "$$python" = "$(PYTHON)" ] \
				&& echo "PYTHON=$$python is not a Python 3.11 or newer with venv" >&2 && exit 1; \
		done; \
		if [ -z "$$found" ]; then \
			echo "graphsec needs Python 3.11 or newer, with venv, and found none. Install it:" >&2; \
			echo "  Debian, Ubuntu:  sudo apt install python3 python3-venv" >&2; \
			echo "                   (where that is older: python3.11 and python3.11-venv)" >&2; \
			echo "  macOS:           brew install python@3.11" >&2; \
			echo "  anywhere:        pyenv install 3.11, or make PYTHON=/path/to/python3.11 ..." >&2; \
			exit 1; \
		fi; \
		echo "making $(VENV) with $$("$$found" --version) ($$found)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m graphsec.ops.warm  # compiles the kernels, once
	@touch $@
