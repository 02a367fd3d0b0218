# `make demo` and `make test` need Python >= 3.10, pip and make, nothing else: each sets up its own environment first.
# A stamp file remembers which pyproject.toml was installed, so that a second call starts at once.

PYTHON ?= python3
# Any Python that has wheels of the oldest supported versions; 3.10 is the oldest one supported.
PYTHON_OLDEST ?= python3
# Arguments for pytest. One process for each core, at most 4, each taking whole files, whose fixtures are then made
# once; `make test PYTEST_ARGS="-k merging -x"` runs a part.
PYTEST_ARGS ?= -n logical --maxprocesses 4 --dist loadfile
# Arguments for scripts/quickstart.py, such as `make demo DEMO_ARGS="--data_dir my_data"`.
DEMO_ARGS ?=

VENV := .venv
VENV_OLDEST := .venv-oldest
VENV_APP := .venv-app
STAMP := $(VENV)/.installed
STAMP_APP := $(VENV_APP)/.installed
STAMP_OLDEST := $(VENV_OLDEST)/.installed
# Every `name>=version` of pyproject.toml as `name==version`: what is declared as the oldest is what is tested.
OLDEST_VERSIONS := $(shell sed -n 's/^    "\([a-z0-9-]*\)>=\([0-9.]*\)",.*/\1==\2/p' pyproject.toml)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-oldest test-app style quality clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1 - \2/p' Makefile

demo: $(STAMP)  ## train, evaluate, save and reload a small ALGM on drawn scenes (no download of data)
	$(VENV)/bin/python scripts/quickstart.py $(DEMO_ARGS)

test: export HF_HUB_OFFLINE = 1
test: $(STAMP)  ## the tests, without the slow ones
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-slow: export HF_HUB_OFFLINE = 1
test-slow: $(STAMP)  ## the slow tests only
	$(VENV)/bin/python -m pytest -m slow $(PYTEST_ARGS)

test-oldest: export HF_HUB_OFFLINE = 1
test-oldest: $(STAMP_OLDEST)  ## the tests with the oldest supported version of every dependency
	$(VENV_OLDEST)/bin/python -m pytest $(PYTEST_ARGS)

test-app: export HF_HUB_OFFLINE = 1
test-app: $(STAMP_APP)  ## the page of scripts/app.py in a headless Chromium, which has to be installed
	$(VENV_APP)/bin/python -m pytest tests/app

style: $(STAMP)  ## format the code and fix what can be fixed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

quality: $(STAMP)  ## check format and rules, change nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:  ## remove the environments, caches and build leftovers
	rm -rf $(VENV) $(VENV_OLDEST) $(VENV_APP) .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's python3 has no ensurepip: there, an environment without pip is made and the outer pip puts a pip into it.
define create_environment
@$(2) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("algm-hf needs Python >= 3.10, $(2) is " + sys.version)'
$(2) -m venv $(1) || { $(2) -m venv --clear --without-pip $(1) && $(2) -m pip --python $(1)/bin/python install pip; }
endef

# The stamp is a copy of the pyproject.toml that was installed: a fresh checkout of the same file installs nothing.
$(STAMP): pyproject.toml
	@cmp -s pyproject.toml $@ || $(MAKE) --no-print-directory install
	@cp pyproject.toml $@

$(STAMP_OLDEST): pyproject.toml
	@cmp -s pyproject.toml $@ || $(MAKE) --no-print-directory install-oldest
	@cp pyproject.toml $@

# An environment of its own: gradio asks for an older pillow than the rest is tested with.
$(STAMP_APP): pyproject.toml
	@cmp -s pyproject.toml $@ || $(MAKE) --no-print-directory install-app
	@cp pyproject.toml $@

.PHONY: install install-oldest install-app
install:
	$(call create_environment,$(VENV),$(PYTHON))
	$(VENV)/bin/python -m pip install -e ".[dev]"

install-app:
	$(call create_environment,$(VENV_APP),$(PYTHON))
	$(VENV_APP)/bin/python -m pip install -e ".[test,app]"

install-oldest:
	$(call create_environment,$(VENV_OLDEST),$(PYTHON_OLDEST))
	$(VENV_OLDEST)/bin/python -m pip install -e . $(OLDEST_VERSIONS)
