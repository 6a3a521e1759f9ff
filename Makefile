# APIShield: what a person types. Needs Python 3.11 or newer; makes its own environment in .venv.
.DEFAULT_GOAL := help
SHELL := /bin/sh
# Tests wait for the processes they start more than they compute: where there are few cores, each has two at a time.
TEST_WORKERS ?= $(shell getconf _NPROCESSORS_ONLN | awk '{print ($$1 < 4) ? 2 * $$1 : $$1}')
PYTEST_FLAGS ?= -n $(TEST_WORKERS) --dist loadscope
FAULT_SEEDS ?= 200

.PHONY: help
help: ## List what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## Start the service on http://localhost:8000 (APISHIELD_PORT=… APISHIELD_DATA_DIR=… move it)
	@scripts/environment.sh server && exec .venv/bin/apishield serve

.PHONY: test
test: dev ## Run all tests, with throwaway Redis and PostgreSQL
	@exec .venv/bin/pytest $(PYTEST_FLAGS)

.PHONY: faults
faults: dev ## Kill what keeps the ledger, 200 times each way; goes on where it was stopped (FAULT_SEEDS=20 for fewer)
	@FAULT_SEEDS=$(FAULT_SEEDS) exec .venv/bin/pytest -v --maxfail=3 --durations=5 tests/faults/ledger

.PHONY: check
check: lint test ## Everything a change must pass: lint, types, layers, tests

.PHONY: lint
lint: dev ## Lint, formatting, types (mypy strict) and the layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: format
format: dev ## Format and fix what can be fixed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: wheel
wheel: ## Build the wheel into dist/, with the limiter compiled (needs a C compiler)
	@scripts/wheel.sh >/dev/null && ls dist/*.whl

.PHONY: bench
bench: ## Measure the limiter, compiled where there is a C compiler, and the service beside their peers
	@scripts/environment.sh bench && PYTHONPATH=$$(scripts/wheel.sh) exec .venv-bench/bin/python -m benchmarks

.PHONY: docs
docs: dev ## Write what is generated: settings, .env.example, metrics, dashboards
	.venv/bin/apishield config docs > docs/reference/settings.md
	.venv/bin/apishield config env > .env.example
	.venv/bin/python -m apishield.telemetry.reference > docs/reference/metrics.md
	.venv/bin/python -m grafana.source

.PHONY: lock
lock: dev ## Renew the lock files (UPGRADE=1 takes the newest versions)
	scripts/lock.sh $(if $(UPGRADE),--upgrade)

.PHONY: dev
dev:
	@scripts/environment.sh dev

.PHONY: clean
clean: ## Remove the environment and caches (not the data)
	rm -rf .venv .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests -name __pycache__ -type d -exec rm -rf {} +
