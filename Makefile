# Everything here sets up what it needs: a virtual environment, and for the tests the services they talk to.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
WORKERS ?= 2
LAYER ?= ipc:
PYTEST_ARGS ?=
RUNS ?= 1000000
# Most tests wait for others most of the time: more of them at once than there are CPUs.
TEST_PROCESSES ?= 4

BIN := $(VENV)/bin
# The chat runs in a directory of its own.
OFFLOAD := $(abspath $(BIN)/offload)

.DEFAULT_GOAL := help
.PHONY: help demo test chaos test-oldest test-django test-all lint types format fuzz bench bench-quick docs clean services

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Named for the interpreter: with another one the environment is made anew.
INSTALLED := $(BIN)/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')

$(INSTALLED): setup.cfg pyproject.toml
	@echo "Installing offload and what it needs into $(VENV); the first time this takes a minute."
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV) || { echo "cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[redis]'
	@touch $@

$(INSTALLED)-test: $(INSTALLED)
	@echo "Installing what the tests need into $(VENV)."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

demo: $(INSTALLED)  ## serve the chat: make demo PORT=9000 WORKERS=4 LAYER=redis://127.0.0.1:6379/0
	@echo "Starting the chat of examples/chat: $(WORKERS) server processes on the layer $(LAYER)"
	@echo "Open http://127.0.0.1:$(PORT)/ in two windows; the page tells what to try. Ctrl-C ends it."
	@cd examples/chat && DEMO=1 WEB_CONCURRENCY=$(WORKERS) OFFLOAD_LAYER='$(LAYER)' \
	    exec $(OFFLOAD) project.wsgi --bind 127.0.0.1:$(PORT) --workers $(WORKERS)

services: $(INSTALLED)-test  # what the tests talk to, where the system's packages may be installed
	@sh tests/install-services.sh
	@sh tests/install-other-servers.sh $(BIN)/python

test: $(INSTALLED)-test services  ## run the tests, some ten minutes on two CPUs; PYTEST_ARGS are passed on
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadscope $(PYTEST_ARGS)

chaos: $(INSTALLED)-test services  ## faults and load at full size: a table of what is promised, done and seen; forty minutes
	OFFLOAD_TEST_FULL=1 OFFLOAD_SLOW_CLIENTS=2000 $(BIN)/python -m pytest -m chaos $(PYTEST_ARGS)

test-oldest:  ## run the tests with the oldest Django, gevent, redis-py and others that are supported
	@PIP_CONSTRAINT=$(CURDIR)/tests/oldest.txt $(MAKE) test VENV=.venv-oldest

test-django: $(INSTALLED)-test  ## run the tests of Django with each supported Django
	@sh tests/every-django.sh $(BIN)/python -n $(TEST_PROCESSES) --dist loadscope $(PYTEST_ARGS)

test-all:  ## run the tests on every supported Python that this machine has, with every Django, and with the oldest packages
	@sh tests/every-python.sh test $(PYTEST_ARGS)
	@sh tests/every-python.sh test-django $(PYTEST_ARGS)
	@$(MAKE) test-oldest

lint: $(INSTALLED)-test  ## check style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell *.md docs examples offload django_offload benchmarks conf

format: $(INSTALLED)-test  ## put files into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(INSTALLED)-test  ## check types
	$(BIN)/mypy

fuzz: $(INSTALLED)-test  ## look for crashes and hangs by coverage-guided fuzzing: make fuzz RUNS=1000000
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@mkdir -p build/fuzz
	$(BIN)/python -m tests.fuzz.fuzz_http -runs=$(RUNS)
	$(BIN)/python -m tests.fuzz.fuzz_websocket -runs=$(RUNS)

bench:  ## measure against the named peers; BENCH are its arguments; writes benchmarks/RESULTS.md
	$(PYTHON) -m benchmarks $(BENCH)

bench-quick:  ## one short round of every benchmark; its figures say little
	$(PYTHON) -m benchmarks --quick $(BENCH)

docs: $(INSTALLED)  ## write the generated pages, and build the documentation into build/docs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/python -m docs.settings_page
	$(BIN)/python -m docs.gunicorn_page
	$(BIN)/python -m sphinx -q -W -b html docs build/docs

clean:  ## remove what was made here
	rm -rf .venv .venv-bench .venv-py3* .venv-oldest build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf benchmarks/build benchmarks/peers/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
