# Every target creates what it needs; a clean clone and Python 3.11 or later are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= digits_vit
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS ?=
CASE ?=
JOBS ?= 2
SUITE := -m pytest -n $(JOBS) --dist worksteal -m "not parity and not slow"

.PHONY: help train test oldest newest parity bench claims zoo lint format docs gallery site clean

help:
	@echo "make train   train CONFIG (default $(CONFIG)) into WORKDIR; ARGS=\"--config.optim.lr=3e-4\""
	@echo "make test    the normal test suite"
	@echo "make oldest  the same suite at the oldest supported versions (.ci/oldest.txt)"
	@echo "make newest  the same suite at the newest release of everything: PYTHON=python3.13"
	@echo "make parity  live comparison with torch, timm and transformers"
	@echo "make bench   benchmarks, all or CASE=name; writes CSV; ARGS=--keep into docs/"
	@echo "make claims  measure the papers' claims again, all or CASE=name; writes docs/claims.md"
	@echo "make zoo     train every family's smallest model on digits, where that is not measured yet;"
	@echo "             ARGS=\"vit resnet --seeds 0\"; writes docs/zoo.md"
	@echo "make lint    ruff: style and formatting"
	@echo "make docs    regenerate papers.md, config.md, recipes.md and the table of learning.md"
	@echo "make gallery draw docs/gallery.md: what each mixer weighs"
	@echo "make site    build the site of docs/ and the docstrings into build/site"
	@echo "make format  let ruff rewrite what lint complains about"
	@echo "make clean   remove $(VENV), .venv-oldest, .venv-newest, runs and caches"

$(VENV)/base.stamp: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "scanmax needs Python 3.11 or later: make PYTHON=python3.11")'
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/dev.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

train: $(VENV)/base.stamp
	$(BIN)/python -m scanmax.data prepare --config=$(CONFIG) $(ARGS)
	$(BIN)/python -m scanmax.train --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

test: $(VENV)/test.stamp
	$(BIN)/python $(SUITE) $(ARGS)

oldest:
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --editable ".[test]" --constraint .ci/oldest.txt
	.venv-oldest/bin/python $(SUITE) $(ARGS)

newest:
	test -x .venv-newest/bin/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12) and "the newest JAX needs Python 3.12 or later: make newest PYTHON=python3.13")'
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable ".[test]"
	.venv-newest/bin/python $(SUITE) $(ARGS)

parity: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m parity tests/parity $(ARGS)

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks $(CASE) $(ARGS)

claims: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks claims $(CASE) $(ARGS)

zoo: $(VENV)/base.stamp
	$(BIN)/python -m benchmarks zoo-digits $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/base.stamp
	$(BIN)/python -m scanmax.papers > docs/papers.md
	$(BIN)/python docs/make_config.py > docs/config.md
	$(BIN)/python docs/make_recipes.py > docs/recipes.md
	$(BIN)/python docs/make_learning.py

gallery: $(VENV)/base.stamp
	$(BIN)/python docs/make_gallery.py

site: $(VENV)/base.stamp
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest runs build *.egg-info .pytest_cache .ruff_cache
