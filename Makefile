# Each target installs what it needs into .venv (the project) and .venv-s3 (the embedded S3 server), from hashed pins.
PYTHON ?= python3
TENANTS ?=
PROVIDER ?=
MINUTES ?= 30
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo up test chaos fuzz lint bench clean lock

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: install ## Run the main job on the shipped examples and show what came out (TENANTS="City Walks" narrows it; PROVIDER=gigachat)
	@$(if $(PROVIDER),VISION_PROVIDER=$(PROVIDER) )$(BIN)/vision-assets demo --tenants "$(TENANTS)"

up: install ## Run the embedded parts, the Dagster UI and its daemon until Ctrl-C
	@exec $(BIN)/vision-assets up

test: lint ## Lint and run all tests, the files of two at a time
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

chaos: install ## Run the kill and race tests in their long form
	$(BIN)/pytest -m chaos --long

fuzz: install ## Fuzz the reading of pictures for MINUTES=30; what it finds is left in .data/fuzz/found
	@mkdir -p .data/fuzz/corpus .data/fuzz/found
	nice -n 10 $(BIN)/python -m tests.fuzz.pictures .data/fuzz/corpus -max_total_time=$$(($(MINUTES) * 60)) \
	  -max_len=16384 -timeout=5 -rss_limit_mb=1536 -artifact_prefix=.data/fuzz/found/

lint: install ## Check style, types and import rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## Run every benchmark; tables here, JSON in benchmarks/results
	@set -e; for file in benchmarks/[a-z]*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py); done

clean: ## Stop the embedded parts; remove their data and the environments
	@if [ -x $(BIN)/vision-assets ]; then $(BIN)/vision-assets down; fi
	rm -rf .data .artifacts .venv .venv-s3 .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

install: .venv/installed .venv-s3/installed

.venv/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "Python 3.11 or 3.12 is needed: make PYTHON=python3.11 …")'
	@echo "Making the local environment"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	@touch $@

.venv/installed: .venv/uv requirements/main.lock pyproject.toml
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/main.lock \
	  || $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/main.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . \
	  || $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv-s3/installed: .venv/uv requirements/s3.lock
	@$(PYTHON) -m venv .venv-s3
	@$(BIN)/uv pip sync --quiet --python .venv-s3/bin/python --require-hashes requirements/s3.lock \
	  || .venv-s3/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/s3.lock
	@touch $@

lock: install ## Resolve the pins anew (for maintainers)
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --group dev --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --output-file requirements/main.lock
	$(BIN)/uv pip compile --quiet requirements/s3.in --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --output-file requirements/s3.lock
	$(BIN)/uv pip compile --quiet requirements/uv.in --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --output-file requirements/uv.lock
