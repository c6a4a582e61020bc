# `make` lists what there is to make.
PYTHON ?= python3
BIN := .venv/bin
# The `dagster` commands announce their successor on every call.
export PYTHONWARNINGS := ignore:Function
# A worker that crashes ends the session: where pytest-xdist 3.8 replaces it, it waits forever for
# tests that the crashed one had done.
WORKERS := --dist loadfile --max-worker-restart=0

# Tests write thousands of small files. In memory, where there is enough of it, they do not wait for
# the disk.
MEMORY := /dev/shm
IN_MEMORY := $(shell free=$$(df --output=avail $(MEMORY) 2>/dev/null | tail -1); \
	[ "$${free:-0}" -gt 8000000 ] && ! findmnt -no OPTIONS $(MEMORY) | grep -q noexec \
	&& echo TMPDIR=$(MEMORY))

.DEFAULT_GOAL := help
.PHONY: help setup demo ui wheel test test-guard test-long test-fast attack bench docs pictures schema check lint format lock clean

help:  ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/run  ## Installs batchrec into .venv.

demo: setup  ## Makes recommendations for 2,113 users, from the ratings to the table.
	@$(BIN)/batchrec run movielens

ui: setup  ## Opens Dagster on http://127.0.0.1:3000.
	@$(BIN)/batchrec ui

# Whatever an earlier build left in build/ would be in the wheel too.
wheel: .venv/run  ## Builds the file in dist/ by which batchrec is installed elsewhere.
	@rm -rf build dist
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@echo "Install it with: pip install '$$(echo dist/*.whl)[local,serve]'"

test: .venv/dev  ## Runs all tests except those of the night (nine minutes).
	$(IN_MEMORY) $(BIN)/pytest -n 4 $(WORKERS) --no-loadscope-reorder

test-guard: .venv/dev  ## Runs the tests that enter where a user does (seven minutes).
	$(IN_MEMORY) $(BIN)/pytest -n 5 $(WORKERS) --no-loadscope-reorder batchrec_dagster_tests/guard

test-long: .venv/dev  ## Runs all tests, with more random input, kills and Pythons (twenty minutes).
	$(IN_MEMORY) BATCHREC_LONG_TESTS=1 $(BIN)/pytest -n 4 $(WORKERS) --no-loadscope-reorder --hypothesis-profile=wild

test-fast: .venv/dev  ## Runs the tests that need no server, browser or Spark (a minute).
	$(BIN)/pytest -n 2 $(WORKERS) -m "not slow"

attack: .venv/dev  ## Runs the tests of hostile input and requests.
	BATCHREC_LONG_TESTS=1 $(BIN)/pytest -m attack

bench: .venv/dev  ## Measures speed (a quarter of an hour) and quality (hours), compared with other libraries.
	$(BIN)/pip install --quiet --require-hashes -r benchmarks/requirements.lock
	for name in loading scoring preparation recommendation_table page list_rules end_to_end scale quality; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; done

docs: .venv/dev  ## Builds the documentation, and checks its links.
	$(BIN)/mkdocs build
	@echo "Open .batchrec/site/index.html; to search in it: $(BIN)/python -m http.server -b 127.0.0.1 -d .batchrec/site"

pictures: .venv/dev  ## Takes the pictures of docs/images again, of the demo.
	BATCHREC_PICTURES=docs/images $(BIN)/pytest -q batchrec_dagster_tests/repository/test_tutorial.py -k picture

schema: .venv/run  ## Writes the JSON schema of the settings, which editors read, again.
	@$(BIN)/python -c 'from batchrec_dagster.config.json_schema import render_declaration_schema as render; \
	from batchrec_dagster.config.new_declaration import SCHEMA_FILE; SCHEMA_FILE.write_text(render())'

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

check: format lint test  ## Formats, lints, type-checks and tests.

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/dev  ## Pins the newest versions that pyproject.toml allows.
	$(BIN)/uv pip compile $(LOCK) --upgrade --extra dev pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile $(LOCK) -c requirements-dev.lock --extra all --extra build pyproject.toml -o requirements.lock
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-strip-extras

clean:  ## Removes the environment and everything that runs left behind.
	rm -rf .venv .batchrec dist .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "batchrec needs Python 3.11 to 3.13: make PYTHON=python3.12 …"; exit 1; }
	@echo "Installing batchrec into .venv: a minute or two, once."
	@$(PYTHON) -m venv .venv

# setuptools comes from the lock too, so that nothing unpinned takes part in the build.
.venv/run: .venv/bin/python requirements.lock pyproject.toml
	@echo "Downloading what batchrec needs, each file checked by its hash …"
	@$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: .venv/bin/python requirements-dev.lock pyproject.toml
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@ .venv/run
