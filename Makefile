# Every target makes .venv when it is missing, and installs again only when pyproject.toml has changed.
PYTHON ?= python3
VENV   := .venv
OLDEST := .venv-oldest
PY     := $(VENV)/bin/python
EXTRAS ?= test
PYTEST_ARGS ?=

.PHONY: help quickstart notebooks test test-oldest doctest lint bench docs clean

help:
	@echo "make quickstart   train a small model on real images, in about a minute"
	@echo "make notebooks    open the tutorial in the browser"
	@echo "make test         run the tests (EXTRAS=test,oracle,… adds what some of them compare with)"
	@echo "make doctest      run the examples in docstrings"
	@echo "make test-oldest  run the tests on the oldest jax, numpy and tqdm that pyproject.toml admits"
	@echo "make lint         ruff and mypy"
	@echo "make bench        run the scripts in benchmarks/"
	@echo "make docs         write the reference of every public name to build/docs"
	@echo "make clean        remove environments, builds and caches"

quickstart: $(VENV)/installed-plot
	$(PY) examples/quickstart.py $(ARGS)

notebooks: $(VENV)/installed-notebook,lab,plot,image,export
	$(PY) -m jupyterlab notebooks $(ARGS)

test: $(VENV)/installed-$(EXTRAS)
	$(PY) -m pytest $(PYTEST_ARGS)

doctest: $(VENV)/installed-test,plot,image,export,oracle
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PY) -m pytest --doctest-modules fnet $(PYTEST_ARGS)

lint: $(VENV)/installed-lint
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(VENV)/installed-bench
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(PY) $$script; done

docs: $(VENV)/installed-docs,plot
	$(PY) -m pdoc --output-directory build/docs fnet
	@echo "Open build/docs/index.html"

clean:
	rm -rf $(VENV) $(OLDEST) build dist runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find fnet tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The oldest environment holds the lower bounds themselves; what was new after them may warn, so warnings are no errors.
# Whether fnet runs there does not depend on how well XLA's programs are optimised, and compiling is most of the time.
test-oldest: $(OLDEST)/installed
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(OLDEST)/bin/python -m pytest -W default $(PYTEST_ARGS)

define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "fnet needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) --version 2>&1`."; \
	    echo "Fix: make $(MAKECMDGOALS) PYTHON=python3.12 (or where a newer one is)"; exit 1; }
	@$(PYTHON) -m venv $(1) || { rm -rf $(1); echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }
endef

$(PY):
	$(call make_venv,$(VENV))

$(OLDEST)/bin/python:
	$(call make_venv,$(OLDEST))

$(VENV)/installed-%: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --editable ".[$*]"
	@touch $@

LOWER_BOUNDS = import tomllib; needs = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
    print(*(need.replace(">=", "==") for need in needs))

$(OLDEST)/installed: pyproject.toml | $(OLDEST)/bin/python
	$(OLDEST)/bin/python -m pip install --quiet --editable ".[test]" `$(OLDEST)/bin/python -c '$(LOWER_BOUNDS)'`
	@touch $@
