# Set-up and the jobs of the project; needs Python 3.11 or later.  Everything, caches too, stays in
# this folder.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export XDG_CACHE_HOME := $(CURDIR)/.venv/cache
export XDG_CONFIG_HOME := $(CURDIR)/.venv/config
unexport PYTHONDONTWRITEBYTECODE  # hundreds of short commands would each compile the same modules
TEST := OMP_NUM_THREADS=1 pytest

.PHONY: help quickstart test test-all bench calibrate faults fuzz reference lint types-product types-tests clean
help:
	@echo 'make quickstart   the whole path on small sets, in a few minutes'
	@echo 'make test         lint, types and tests'
	@echo 'make test-all     the slow tests too'
	@echo 'make bench        speed, beside what it beats'
	@echo 'make calibrate    how often the tests of a comparison err, on simulated studies'
	@echo 'make faults       kills, full disks, failing stores: does the same come out?'
	@echo 'make fuzz         10,000 changed files: is each read rightly, or refused in a line?'
	@echo 'make reference    docs/reference, from the code'

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	python -m pip install --quiet uv

.venv/installed: .venv/bin/uv pyproject.toml
	uv pip install --quiet --compile-bytecode --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	uv pip install --quiet --compile-bytecode --editable . --group dev
	@touch $@

quickstart: .venv/installed
	synthgen fractal --out quickstart/fractals --categories 20 --n 800 --size 64 --points 20000
	synthgen sd --prompts prompts/quickstart.txt --model tiny --n 800 --out quickstart/diffusion
	synthgen preview quickstart/diffusion
	evaluate simulate --out quickstart/camera-traps
	evaluate plan evaluate/suites/quickstart.toml
	evaluate run evaluate/suites/quickstart.toml --out quickstart/runs
	evaluate compare quickstart/runs --out quickstart/report

lint: .venv/installed-dev
	ruff check .
	ruff format --check .
	$(MAKE) --no-print-directory --jobs 2 types-product types-tests

types-product: .venv/installed-dev
	mypy

types-tests: .venv/installed-dev
	mypy --config-file tests/mypy.ini

test: lint
	$(TEST) -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-all: lint
	$(TEST) -n 2 --dist loadfile --no-loadscope-reorder

bench: .venv/installed-dev
	python tests/benchmarks/fractals.py
	python tests/benchmarks/diffusion.py
	python tests/benchmarks/datapath.py
	python tests/benchmarks/compare.py
	python tests/benchmarks/engines.py
	python tests/benchmarks/scale.py

calibrate: .venv/installed-dev
	python tests/benchmarks/calibrate.py

faults: .venv/installed-dev
	python tests/faults.py

fuzz: .venv/installed-dev
	OMP_NUM_THREADS=1 python tests/fuzz.py

reference: .venv/installed-dev
	python docs/generate

clean:
	rm -rf quickstart build
