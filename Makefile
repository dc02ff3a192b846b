# Every target that runs Python makes .venv first, so each works as the first command on a fresh machine.
PYTHON ?= python3
DATASET ?= emoji
ROOT ?=
MODEL ?= $(if $(filter emoji,$(DATASET)),tiny-emoji)
CACHE ?= data/$(DATASET).h5
DATA_ARGS ?=
DOWNLOAD ?=
ARGS ?=

BIN := .venv/bin
BENCHMARKS := $(patsubst scripts/bench_%.py,bench-%,$(wildcard scripts/bench_*.py))

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs extract train eval bench $(BENCHMARKS) testbeds results coverage clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: DATASET=$(DATASET) ROOT=$(ROOT) MODEL=$(MODEL) CACHE=$(CACHE) ARGS=$(ARGS)"
	@echo "  DATA_ARGS: options of check and extract, such as '--split karpathy'; DOWNLOAD=1: fetch the data first"
	@echo "  For example: make extract DATASET=coco ROOT=/datasets/coco MODEL=ViT-B/16"

demo: .venv/demo ## Install, then extract, train and evaluate on the emoji data set
	$(BIN)/clipret extract --dataset emoji --model tiny-emoji --out data/emoji.h5
	$(BIN)/clipret train --cache data/emoji.h5
	$(BIN)/clipret eval

test: .venv/test ## Install, then run the tests (ARGS='-k cache' for some)
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/test ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/test ## Build the manual into build/site
	$(BIN)/python scripts/docs_pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

extract: .venv/demo ## Stage 1: check DATASET, then its features with MODEL, to CACHE
	$(if $(DOWNLOAD),$(BIN)/clipret download $(DATASET) $(if $(ROOT),--root $(ROOT)))
	$(BIN)/clipret check --dataset $(DATASET) $(if $(ROOT),--root $(ROOT)) $(DATA_ARGS)
	$(BIN)/clipret extract --dataset $(DATASET) $(if $(ROOT),--root $(ROOT)) $(if $(MODEL),--model $(MODEL)) --out $(CACHE) $(DATA_ARGS) $(ARGS)

train: .venv/demo ## Stage 2: train a head on CACHE
	$(BIN)/clipret train --cache $(CACHE) $(ARGS)

eval: .venv/demo ## Stage 2: evaluate the newest run
	$(BIN)/clipret eval $(ARGS)

bench: $(BENCHMARKS) ## Run all benchmarks; each leaves build/bench/NAME.json

$(BENCHMARKS): bench-%: .venv/test
	$(BIN)/python scripts/bench_$*.py $(ARGS)

testbeds: .venv/test ## Make the data sets on which recipes are judged, in build/testbeds
	$(BIN)/python -m pip install --quiet -e '.[testbeds]'
	$(BIN)/python scripts/testbeds.py $(ARGS)

results: .venv/test ## Train, fine-tune and measure on the test beds: the tables of docs/training.md
	$(BIN)/python -m pip install --quiet -e '.[testbeds]'
	$(BIN)/python scripts/results.py $(ARGS)

coverage: .venv/test ## Simulate how often intervals and tests are right: docs/statistics.md
	$(BIN)/python scripts/simulate_coverage.py $(ARGS)

clean: ## Remove what was built; .venv, caches and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .coverage

.venv/demo: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[demo,serve]'
	@touch $@

.venv/test: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ .venv/demo
