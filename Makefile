# `make help` lists what there is. Everything runs in .venv, which `make setup` builds from the lock.
BIN := .venv/bin
CODE := $(wildcard pipelines transforms schemas readers benchmarks examples tests setup.py)
TYPED := $(wildcard pipelines transforms schemas readers)
LOCK_INPUTS := requirements/bootstrap.txt requirements/make_venv.sh setup.py
COMPILE = .venv-uv/bin/uv pip compile --quiet --generate-hashes --custom-compile-command "make lock" \
	--no-emit-index-url --no-emit-find-links \
	--python-version 3.11 --python-platform x86_64-manylinux_2_36 $(UPGRADE)
WORKERS ?= 2
FUZZ_S ?= 300

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak check format lock bench clean
MAKEFLAGS += --no-print-directory

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: .venv/.ready  ## build .venv from requirements/lock.txt (again when the lock changes)

.venv/.ready: requirements/lock.txt $(LOCK_INPUTS)
	@requirements/make_venv.sh .venv requirements/lock.txt

.venv-bench/.ready: requirements/bench.txt $(LOCK_INPUTS)
	@requirements/make_venv.sh .venv-bench requirements/bench.txt

.venv-soak/.ready: requirements/soak.txt $(LOCK_INPUTS)
	@requirements/make_venv.sh .venv-soak requirements/soak.txt

demo: .venv/.ready  ## simulate listening, ingest it, build a dataset and show the report
	@$(BIN)/python -m pipelines.demo

test: .venv/.ready  ## run the tests; ARGS="-k sessions" narrows them
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

soak: .venv-soak/.ready  ## every fault, more logs, fuzzing for FUZZ_S seconds each: hours
	@PLAYHEAD_SOAK=1 .venv-soak/bin/python -m pytest -n $(WORKERS) --timeout 7200 tests/leakage \
		tests/crashes tests/hostile $(ARGS)
	@for kind in $$(.venv-soak/bin/python -m tests.hostile.fuzz --list); do \
		.venv-soak/bin/python -m tests.hostile.fuzz $$kind -max_total_time=$(FUZZ_S) || exit 1; done

check: .venv/.ready  ## lint, formatting, types, generated schemas and pages
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --quiet --check --diff $(CODE)
	@$(BIN)/mypy --no-error-summary $(TYPED)
	@$(BIN)/python -m schemas.generate --check
	@$(BIN)/python -m transforms.features --check

format: .venv/.ready  ## format the code and fix what the linter can fix
	@$(BIN)/ruff check --quiet --fix-only $(CODE)
	@$(BIN)/ruff format --quiet $(CODE)

lock:  ## resolve requirements/*.in anew; UPGRADE=--upgrade takes newer versions
	@requirements/make_venv.sh
	@$(COMPILE) requirements/bootstrap.in -o requirements/bootstrap.txt
	@$(COMPILE) requirements/playhead.in --override requirements/overrides.txt -o requirements/lock.txt
	@$(COMPILE) requirements/bench.in --override requirements/overrides.txt -c requirements/lock.txt \
		-o requirements/bench.txt
	@$(COMPILE) requirements/soak.in --override requirements/overrides.txt -c requirements/lock.txt \
		-o requirements/soak.txt

bench: .venv-bench/.ready  ## measure against Polars, DuckDB, Spark and plain Beam, and each kind
	@.venv-bench/bin/python -m benchmarks.run $(ARGS)
	@.venv-bench/bin/python -m benchmarks.kinds $(KINDS_ARGS)

clean:  ## remove environments, caches and what demo and bench wrote
	@rm -rf .venv .venv-bench .venv-soak .venv-uv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage \
		build dist demo bench *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
