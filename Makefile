# `make demo` and `make test` need Python 3.11 or newer, gcc and make, and a network for the first
# installation; everything they install goes to .venv.

VENV ?= .venv
EXTRAS ?= cpu,dev
TEST_ARGS ?=

# The first interpreter that is new enough; PYTHON=... overrides the search.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
# Nothing reaches for a model hub, and two workers share the machine with one thread each.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
PYTEST := $(OFFLINE) OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	$(BIN)/python -m pytest -n 2 --dist worksteal $(TEST_ARGS)
SOURCES := starquant_fx passes lowering kernels tests tools benchmarks examples

# Runs the target named in $(1) and ends with one plain line about $@.
define verdict
@if $(MAKE) --no-print-directory $(1); then echo "make $@: PASSED"; \
	else echo "make $@: FAILED"; exit 1; fi
endef

.PHONY: help demo test test-all test-transformers run-test-transformers lint clean run-demo run-test run-test-all run-lint install viewers
.DEFAULT_GOAL := help

help:
	@echo "make demo      compile a small diffusion model and show what it cost"
	@echo "make test      run the test suite without the slow tests"
	@echo "make test-all  run the test suite with the slow tests"
	@echo "make test-transformers  run the Hugging Face tests under other versions of transformers"
	@echo "make lint      ruff, mypy and pyright"
	@echo "make clean     remove .venv, caches and build products"

demo:
	$(call verdict,run-demo)

test:
	$(call verdict,run-test)

test-all:
	$(call verdict,run-test-all)

test-transformers:
	$(call verdict,run-test-transformers)

lint:
	$(call verdict,run-lint)

run-demo: install
	@$(OFFLINE) $(BIN)/python -m starquant_fx demo

run-test: install
	@$(PYTEST) -m "not slow"

run-test-all: install viewers
	@$(PYTEST) --timeout 3600

# The lowest version that pyproject.toml allows, and the newest that was tested.
run-test-transformers: install
	@$(BIN)/python tools/transformers_versions.py 5.17.0 5.24.0

# What tests of the inspector's page and files open them in; without it they are skipped, and say so.
viewers: install
	@$(PIP) install -qq --no-deps ai-edge-model-explorer==0.1.34 netron==9.3.3
	@if ! { command -v chromium && command -v chromedriver && command -v dot; } >/dev/null; then \
		if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver graphviz; \
		else echo "no chromium, chromedriver or dot, and nobody who may install them:" \
			"tests that need them are skipped"; fi; fi

run-lint: install
	@status=0; for tool in "ruff check ." "ruff format --check ." mypy \
			"pyright --pythonpath $(BIN)/python"; do \
		echo "== $$tool"; $(BIN)/$$tool || status=1; done; exit $$status

install: $(STAMP)

# torch comes first: its pin decides between the CPU and the CUDA build, and the rest follows it.
$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(NEW_ENOUGH)'; then \
		echo "StarQuant FX needs Python 3.11 or newer; found: $$($(or $(PYTHON),python3) -V 2>&1)." \
			"Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; fi
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	@echo "Installing into $(VENV); the first time this takes minutes."
	@$(PIP) install -qq --constraint constraints.txt torch
	@$(PIP) install -qq --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
