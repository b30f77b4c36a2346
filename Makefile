# "make demo" and "make test" do everything from a fresh clone. ARGS reaches the program that a target runs:
#   make test ARGS="-k packaging"      make demo ARGS="--quick"      make env PYTHON=python3.12
# PIP_ARGS reaches pip, to name another package index for instance.

PYTHON ?= python3
ARGS ?=
PIP_ARGS ?=

BIN := .venv/bin
# Newer than setup.cfg and constraints.txt once the environment holds what they ask for.
INSTALLED := .venv/.installed
PACKAGES := envs agents baselines

.DEFAULT_GOAL := help
.PHONY: help env demo test check format typing-tree wheel clean

help:  ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

env: $(INSTALLED)  ## make .venv and install the library with all extras in it

demo: env  ## train a policy, compare it with the baselines and write runs/demo/report.html
	$(BIN)/helm-gym demo $(ARGS)

test: env  ## run the tests, on all cores
	$(BIN)/pytest -n auto --dist loadfile $(ARGS)

check: env typing-tree  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env  ## sort imports, mend what ruff can mend, and format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# The import layout as folders: mypy and pyright do not read the mapping in setup.cfg.
typing-tree:  ## link the sources into build/typing, for type checkers
	@rm -rf build/typing && mkdir -p build/typing/helm_gym
	@ln -s "$(CURDIR)"/helm_gym/* build/typing/helm_gym/
	@for package in $(PACKAGES); do ln -s "$(CURDIR)/$$package" build/typing/helm_gym/$$package; done

# build/lib keeps files that were deleted since, and setuptools would put them into the wheel.
wheel: env  ## build dist/*.whl
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m build --wheel $(ARGS)

clean:  ## remove build products and caches; .venv/ and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .numba_cache .coverage
	find $(PACKAGES) helm_gym tests -name __pycache__ -type d -prune -exec rm -rf {} +

# sys.exit(text) prints the text and fails, on Python 2 too.
define CHECK_VERSION
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 14):
    sys.exit("helm-gym needs Python 3.10 to 3.14, and $(PYTHON) is %d.%d.\n"
             "Name another one: make env PYTHON=python3.12" % sys.version_info[:2])
endef
export CHECK_VERSION

$(INSTALLED): setup.cfg constraints.txt
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "There is no $(PYTHON) here: install Python 3.10 or newer, or name one: make env PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c "$$CHECK_VERSION"
	@"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv package" >&2; \
	  echo "(on Debian and Ubuntu: apt-get install python3-venv), then run make again." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	@echo 'Installing into .venv (one to some minutes; PIP_ARGS=-v shows what pip does) ...'
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[train,report,dev]'
	@touch $@
