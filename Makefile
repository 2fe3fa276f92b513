# thothy-batch: `make run` and `make test` each set up everything from nothing.
# `make help` lists the targets.

SHELL := /bin/bash
# The first that works: a pyenv shim of a version that is not installed does not.
PYTHON ?= $(shell for each in python3.11 python3.12; do \
	"$$each" -c 'import venv' >/dev/null 2>&1 && { echo "$$each"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# What `make run` needs, and what the other targets need besides.
STAMP := $(VENV)/.setup-stamp
DEV_STAMP := $(VENV)/.dev-stamp
# The kernels of the sample night are compiled.
KERNEL_STAMP := $(VENV)/.kernel-stamp
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off -c constraints.txt
# Of what pip says: each package that it fetches, and what went wrong.
PIP_LINES := sed -u -n -E '/Requirement already/d; s/^ *(Downloading .*|Installing .*|Successfully .*)/    \1/p; /rror|arning|ERROR/p' | cut -c 1-110
# mypy does not find a package that the build maps to another folder: give it one by that name.
STUBS := $(VENV)/mypy
# Environments of other engines, and the checkpoint and the workloads that all of them are given.
PEERS ?= .peers

# OpenMP threads that spin for long stall a test run as soon as something else has a core.
export GOMP_SPINCOUNT ?= 2000
# Tests start hundreds of programs: none of them is to compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run test test-rest test-all check lint format wheel gpu gpu-dry-run gpu-first-contact gpu-pack bench peers bench-peers faults fuzz docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	  || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/python || { echo "== 1/4 making the virtual environment $(VENV): a few seconds"; $(PYTHON) -m venv $(VENV); }
	@echo "== 2/4 installing PyTorch, Numba, DuckDB and what they need, 2.5 GB on disk: one to three minutes"
	@set -o pipefail; $(PIP) -e . | $(PIP_LINES)
	@touch $(STAMP)

$(KERNEL_STAMP): $(STAMP) $(shell find kernels -name '*.py')
	@echo "== 3/4 compiling the CPU kernels of the sample night, once per machine"
	@$(BIN)/thothy-batch doctor --prepare
	@touch $(KERNEL_STAMP)

$(DEV_STAMP): $(STAMP)
	@echo "== installing what tests and benchmarks need: one minute"
	@set -o pipefail; $(PIP) -e '.[dev,bench]' | $(PIP_LINES)
	mkdir -p $(STUBS) && ln -sfn ../../kernels $(STUBS)/thothy_kernels
	touch $(DEV_STAMP)

setup: $(STAMP) $(KERNEL_STAMP) ## make the virtual environment (.venv) and compile the kernels: what a run needs

run: $(STAMP) $(KERNEL_STAMP) ## run the sample night (0 and 1 are its good exit codes: some of its rows are bad on purpose)
	@echo "== 4/4 the sample night"
	@$(BIN)/thothy-batch run sample_data/manifest.yaml; code=$$?; \
	if [ $$code -le 1 ]; then $(BIN)/thothy-batch report sample_data/artifacts.duckdb; else exit $$code; fi

# Two workers, each with operations of one thread: most tests are the interpreter's work, or Python's.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test: $(DEV_STAMP) $(KERNEL_STAMP) ## prove the product in minutes; says how many tests it leaves
	$(PYTEST) -m 'not rest'

test-rest: $(DEV_STAMP) ## run the tests that `make test` leaves: matrices, compilers, the whole failure table
	$(PYTEST) -m rest

test-all: $(DEV_STAMP) ## run all tests
	$(PYTEST)

check: lint test ## format, lint, types and the tests of `make test`

lint: $(DEV_STAMP) ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=$(STUBS) $(BIN)/mypy

format: $(DEV_STAMP) ## rewrite the code as ruff formats it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(DEV_STAMP) ## build the wheel into dist/
	$(BIN)/python -m build --wheel --quiet .

docs: $(DEV_STAMP) ## rewrite the generated parts of README.md, and docs/schema
	$(BIN)/python tests/docs.py --write

gpu: ## on a CUDA device: kernel and engine tests, kernel benchmarks, whole runs (PARTS="kernels engine bench runs")
	bash tests/bench/gpu.sh $(PARTS)

gpu-dry-run: $(DEV_STAMP) ## the same on the CPU, tiny, in the interpreter of Triton (minutes)
	bash tests/bench/gpu.sh --dry-run $(PARTS)

gpu-first-contact: ## on a CUDA device: in a minute or two, which faults only a device can show (SECTIONS="env ops")
	@bash tests/bench/gpu_first_contact.sh $(SECTIONS)

gpu-pack: ## copy what the GPU machine needs of the shared data into gpu_pack/
	bash tests/bench/gpu_pack.sh

bench: $(DEV_STAMP) ## speed of the engine beside transformers on a real workload (minutes; needs the shared folder)
	$(BIN)/python tests/bench/bench_mix.py

peers: $(DEV_STAMP) ## set up the other engines, each in an environment of its own below PEERS (gigabytes)
	$(BIN)/python tests/bench/peer_setup.py $(PEERS)

bench-peers: $(DEV_STAMP) ## this engine and those of `make peers`, in turn, on the same requests (an hour)
	$(BIN)/python tests/bench/bench_peers.py --peers $(PEERS) --work $(PEERS)/work

faults: $(DEV_STAMP) ## kill -9 at random moments; 250 nights with faults armed (half an hour)
	$(BIN)/python tests/robustness/crash/campaign.py --kills 20
	$(BIN)/python tests/robustness/crash/points.py --nights 200
	$(BIN)/python tests/robustness/crash/points.py --nights 50 --model embedded

fuzz: $(DEV_STAMP) ## broken manifests, rows, journals and kind files: many new ones (a quarter of an hour)
	THOTHY_FUZZ=long $(BIN)/python -m pytest -q tests/robustness/fuzz -o timeout=3600

clean: ## remove what was built, and the sample night's store
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis sample_data/artifacts.duckdb*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
