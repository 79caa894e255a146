# Every target sets up the environment itself, when there is none or when its recipe has changed.
PYTHON ?= python3
VENV ?= .venv
GPU_PYTHON ?= python3 # of a machine with a GPU, which has torch and timm
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SUPPORTED := 3.10 to 3.13
SPREAD := --numprocesses auto # tests/conftest.py says how many processes, and what each gets
unexport PYTHONDONTWRITEBYTECODE # some images set it: then each of the hundreds of processes of a run compiles us again

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-quick golden golden-update lint bench bench-gates world-table map-precision gpu-world-data gpu-world \
	gpu-check-data gpu-check \
	demo-models benchmarks screenshots pictures clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 chooses the interpreter ($(SUPPORTED)), VENV=folder the environment's place."

setup: $(READY) ## make the environment, with everything pinned (about 6 GB)

demo: $(READY) ## run every stage on the embedded world; the report lies under work/demo
	$(BIN)/tgmae demo --out work/demo

test: $(READY) ## run the tests
	$(BIN)/python -m pytest $(SPREAD)

test-quick: $(READY) ## run the tests that take less than a second each
	$(BIN)/python -m pytest $(SPREAD) -m "not slow and not medium"

golden: $(READY) ## check that every stage still leaves the same bytes and losses on a fixed small world
	$(BIN)/python -m pytest tests/golden

golden-update: $(READY) ## accept what they leave now: rewrites tests/golden/expected.json
	$(BIN)/python -m tests.golden

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## run every program in bench/
	@for program in bench/[a-z]*.py; do \
		[ -e "$$program" ] || { echo "bench/ holds no programs yet"; continue; }; \
		case $$program in bench/gates.py | bench/gpu_check.py) continue ;; esac; \
		echo "== $$program"; $(BIN)/python "$$program" || exit; \
	done

bench-gates: $(READY) ## run the short forms of the benches; ends with an error where a ratio of bench/gates.toml is missed
	$(BIN)/python bench/gates.py $(GATES)

world-table: $(READY) ## the paper's comparisons in miniature, three seeds each; resumable
	$(BIN)/python -m tgmae.demo.world_table
	$(BIN)/python docs/make_results.py

map-precision: $(READY) ## how good a map must be: probe accuracy by text share and noise, three seeds each
	$(BIN)/python -m tgmae.demo.map_precision
	$(BIN)/python docs/make_results.py

gpu-world-data: $(READY) ## make what gpu-world trains on, under work/gpu_world: shards, maps, wheels for the GPU machine
	$(BIN)/python bench/gpu_world.py prepare

gpu-world: ## on a GPU machine: four masks, three seeds, from what gpu-world-data made; GPU_PYTHON chooses the interpreter
	[ ! -d work/gpu_world/wheels ] || $(GPU_PYTHON) -m pip install --quiet --no-index --no-deps work/gpu_world/wheels/*.whl
	PYTHONPATH=. $(GPU_PYTHON) bench/gpu_world.py train

gpu-check-data: $(READY) ## make what gpu-check needs, under work/gpu_check: clips, and wheels for the GPU machine
	$(BIN)/python bench/gpu_check.py prepare

gpu-check: ## on a GPU machine: its tests and measurements, eight minutes at most; GPU_PYTHON, VIDEOMAE=CHECKOUT
	[ ! -d work/gpu_check/wheels ] || $(GPU_PYTHON) -m pip install --quiet --no-index --no-deps work/gpu_check/wheels/*.whl
	PYTHONPATH=. $(GPU_PYTHON) bench/gpu_check.py $(if $(VIDEOMAE),--videomae $(VIDEOMAE))

demo-models: $(READY) ## train the demo's small models again
	$(BIN)/python -m pipeline.world.train_models

benchmarks: $(READY) ## write docs/benchmarks.md from bench/results
	$(BIN)/python docs/make_benchmarks.py

pictures: $(READY) ## the README's pictures, from the demo's workspace (make demo)
	$(BIN)/tgmae show work/demo/workspace --out docs --video test/star/00981.mp4

screenshots: $(READY) ## the docs' screenshots of the inspector, from the demo's workspace; needs Chromium
	TGMAE_SCREENSHOTS=work/demo/workspace $(BIN)/python -m pytest -q tests/tgmae/inspector/test_browser.py -k screenshots

clean: ## remove the environment, caches and the demo's output
	rm -rf "$(VENV)" build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache work/demo
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is there is brought up to date with the Python it has.
$(READY): pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || { \
		command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is not there: make ... PYTHON=/path/to/python"; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
			echo "tgmae runs on Python $(SUPPORTED); $(PYTHON) is $$($(PYTHON) -V). Choose another: make ... PYTHON=python3.12"; \
			exit 1; }; \
		$(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[pipeline,train,dev]'
	@touch $@
