# Every chore has one command here; `make` lists them. From a fresh clone it needs Python 3.11+, Node.js 20+ and make.
# Stamps note what is done, so that a second time is quick. ARGS="…" is handed on where a target says so.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

BIN := .venv/bin
STATIC := jupyter_agentstore/widgets/static
EXTRAS := lab,test,lint,bench,docs

# The first Python that is new enough; `make setup PYTHON=…` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

# Every folder with a lock file has packages of its own: the front end, and what tests need.
NODE := $(patsubst %/package-lock.json,%,$(wildcard labextension/package-lock.json tests/*/package-lock.json))
PACKAGES := $(NODE:%=%/node_modules/.stamp)
FRONT_END := labextension/node_modules/.stamp-build

.PHONY: help setup browser run test lint format bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

setup: .venv/.stamp $(PACKAGES) $(FRONT_END) ## virtual environment in .venv, package installed editable, front end built

.venv/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or newer is on the PATH; name one: make setup PYTHON=…" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv

.venv/.stamp: .venv/bin/python pyproject.toml hatch_build.py $(wildcard jupyter-config/*/*.json) | $(FRONT_END)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@mkdir -p $(@D) && touch $@

%/node_modules/.stamp: %/package.json %/package-lock.json
	@command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' \
		|| { echo "Node.js 20 or newer with npm must be on the PATH." >&2; exit 1; }
	npm --prefix $* ci --no-audit --no-fund
	@mkdir -p $(@D) && touch $@

# The built files are where the package looks for them; if somebody removed them, the stamp lies.
ifeq ($(wildcard $(STATIC)/*.js),)
.PHONY: $(FRONT_END)
endif
$(FRONT_END): labextension/node_modules/.stamp \
		$(shell find labextension \( -name node_modules -o -name '.*' \) -prune -o -type f -print)
	npm --prefix labextension run build
	@mkdir -p $(@D) && touch $@

browser: ## Chromium for the tests, if it is not there (Debian's, through apt-get)
	@if command -v chromium >/dev/null; then exit 0; fi; \
	command -v apt-get >/dev/null || { echo "Install Chromium (the command chromium); there is no apt-get here." >&2; exit 1; }; \
	if [ "$$(id -u)" = 0 ]; then root=; elif command -v sudo >/dev/null; then root=sudo; else \
		echo "Chromium is missing, and installing it takes root or sudo: apt-get install chromium" >&2; exit 1; fi; \
	$$root apt-get update -q; \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends chromium fonts-dejavu-core; \
	command -v chromium >/dev/null || { echo "apt-get installed no command chromium." >&2; exit 1; }

# As root (in a container) Jupyter wants to be told that this is meant; without a display there is no browser to open.
run: setup ## JupyterLab with the quick start open; ARGS="--port 9999"
	$(BIN)/jupyter-lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/01_quickstart.ipynb \
		$$([ "$$(id -u)" != 0 ] || echo --allow-root) \
		$$([ -n "$${DISPLAY:-}$${WAYLAND_DISPLAY:-}" ] || [ "$$(uname)" = Darwin ] || echo --no-browser) $(ARGS)

# pytest comes last: its summary is the end of the output.
test: setup browser ## every test; ARGS="-k something" for pytest
	for folder in $(NODE); do npm --prefix $$folder run --if-present test || exit 1; done
	$(BIN)/pytest -n auto --dist worksteal $(ARGS)

# All of them run, so that one look shows everything there is to mend.
lint: setup ## every check that runs nothing
	@failed=; for check in "ruff check ." "ruff format --check ." mypy "lint-imports --no-logo"; do \
		echo "$$check"; $(BIN)/$$check || failed=1; done; \
	for folder in $(NODE); do echo "npm run lint in $$folder"; npm --prefix $$folder run lint || failed=1; done; \
	[ -z "$$failed" ]

format: setup ## lay the code out as lint wants it
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: setup ## measurements; ARGS for them
	$(BIN)/python -m benchmarks $(ARGS)

docs: setup browser ## the pictures in docs/images, taken in a real JupyterLab
	$(BIN)/python -m docs.make_images

clean: ## remove what was built and cached; .venv and node_modules stay
	rm -rf dist build $(STATIC) $(FRONT_END) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . \( -name .venv -o -name node_modules -o -name .git \) -prune -o -name __pycache__ -type d -print | xargs rm -rf
