# make demo    a training with PANMonitor, from nothing: virtual environment, packages, real images, findings
# make test    the test suite                make lint    style, formatting and types
# make test-one T=tests/reports              make format  puts style and formatting right
# make test-attack  every hostile case with and without each callback, written into docs/reliability.md
# make test-slow  the large matrices of which make test runs a sample
# make test-gpu  what needs a CUDA device
# make docs  the docs site, in build/site, strictly and without a network
# make concepts  the pictures of docs/concepts; a minute
# make test-cov  the same with coverage, written into docs/coverage.md
# make test-oldest  part of it with the oldest versions that are promised
# make test-python PYTHON=python3.13  the same part with another Python
# make dist    wheel and sdist, built and tried
PYTHON ?= python3
BIN := .venv/bin
# what tests and docs need, and what the demo needs, which is less
INSTALLED := .venv/.installed
DEMO := .venv/.demo
LOGDIR ?= runs
OUT ?= docs/first_screen.png
# one thread for each of the test processes; more only get into each other's way
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# neighbours stay in one process, so that what a file sets up is set up once
TWO_PROCESSES := -n 2 --dist worksteal
# waiting threads sleep: where the cores are shared, a training step is four times as fast as with threads that spin
SHARED_CORES := OMP_WAIT_POLICY=PASSIVE

.PHONY: install demo about-demo test test-one test-attack test-slow test-gpu test-cov test-oldest test-python dist lint format docs concepts screenshot bench bench-gpu bench-suppression study clean
.DELETE_ON_ERROR:

install: $(INSTALLED)

# makes .venv if there is none, with a Python that is new enough or not at all
INSTALL = @$(PYTHON) tools/install.py

# all that the demo needs is among it
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(INSTALL) .venv -c constraints.txt -e '.[dev]'
	@touch $(DEMO) $@

# measured from nothing on two cores, quiet and busy: 176 s, 87 of them for packages, and 339 s, 138 of them
about-demo:
	@echo "Three to six minutes on two cores: about half for packages the first time, then six epochs of training"

$(DEMO): setup.cfg pyproject.toml constraints.txt
	$(INSTALL) .venv -c constraints.txt -e '.[demo]'
	@touch $@

demo: about-demo $(DEMO)
	$(SHARED_CORES) $(BIN)/python -m examples.train fit -c configs/placed_digits.yaml

test: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python -m pytest $(TWO_PROCESSES) --durations=10

# one file, one folder or one test: make test-one T=tests/reports/test_tables.py::test_csv_is_read_back_as_it_was
T ?= tests
test-one: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python -m pytest $(T)

# every case of tests/attack, and more examples for tests/fuzz; a quarter of an hour on two cores
FUZZ := $(wildcard tests/fuzz)
test-attack: $(INSTALLED)
	mkdir -p runs
	PAN_ATTACK_RESULTS=runs/attack.json PAN_FUZZ_EXAMPLES=2000 $(ONE_THREAD) \
		$(BIN)/python -m pytest $(TWO_PROCESSES) -m "" tests/attack $(FUZZ); \
		status=$$?; $(BIN)/python tools/reliability_page.py runs/attack.json docs/reliability.md; exit $$status

# the cases of large matrices that make test leaves out; minutes on two cores
test-slow: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python -m pytest $(TWO_PROCESSES) -m slow

# on a CUDA device; skipped where there is none
test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest tests/gpu

test-cov: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python -m pytest $(TWO_PROCESSES) --cov --cov-report=term --cov-report=json:.coverage.json
	$(BIN)/python tools/coverage_page.py .coverage.json docs/coverage.md

# with the versions of constraints-oldest.txt, in an environment of its own; what of the suite is enough to tell
OLDEST_TESTS := tests/test_padding.py tests/test_layers.py tests/measurement/test_planted_truth.py \
	tests/measurement/test_scan.py tests/callbacks/test_trial.py tests/callbacks/test_mask_all.py
test-oldest: .venv-oldest/.installed
	$(ONE_THREAD) .venv-oldest/bin/python -m pytest $(TWO_PROCESSES) $(OLDEST_TESTS)

.venv-oldest/.installed: setup.cfg pyproject.toml constraints-oldest.txt
	$(INSTALL) .venv-oldest -c constraints-oldest.txt -e '.[oldest]'
	@touch $@

# the same tests with another Python, in an environment of its own: make test-python PYTHON=python3.13
OTHER := .venv-$(notdir $(PYTHON))
test-python: $(OTHER)/.installed
	$(ONE_THREAD) $(OTHER)/bin/python -m pytest $(TWO_PROCESSES) $(OLDEST_TESTS)

$(OTHER)/.installed: setup.cfg pyproject.toml constraints.txt
	$(INSTALL) $(OTHER) -c constraints.txt -e '.[oldest]'
	@touch $@

# dist/ anew, and tried in an environment that holds the wheel and what it asks for
dist: $(INSTALLED)
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tools/try_dist.py dist

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(INSTALLED)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# every warning is an error: a link to nowhere, a page outside the navigation
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# measured anew and drawn anew: what changes in them changes in the words of their pages, too
concepts: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python -m tools.draw_concepts

# 20 minutes on two cores; what is done is kept in runs/performance, and written into docs/performance.md
bench: .venv/.bench
	$(ONE_THREAD) $(BIN)/python -m benchmarks.performance

# the rows that concern it, on a GPU; written into docs/performance-gpu.md
bench-gpu: .venv/.bench
	PAN_BENCH_DEVICE=cuda $(BIN)/python -m benchmarks.performance forward report page \
		--results runs/performance-gpu --page docs/performance-gpu.md

.venv/.bench: $(INSTALLED)
	$(INSTALL) .venv -c constraints.txt -e '.[bench]'
	@touch $@

# hours on two cores; what is done is kept in benchmarks/suppression/runs.jsonl, and written into docs/suppression_runs.md
bench-suppression: $(INSTALLED)
	$(SHARED_CORES) $(BIN)/python -m benchmarks.suppression
	$(SHARED_CORES) $(BIN)/python -m benchmarks.penalty_cost

# half an hour on two cores; what is done is kept in runs/study.jsonl
study: $(INSTALLED)
	$(SHARED_CORES) $(BIN)/python -m benchmarks.study

# TensorBoard as it opens, on whatever is in $(LOGDIR)
screenshot: $(INSTALLED)
	$(BIN)/python tools/screenshot_tensorboard.py --logdir $(LOGDIR) --out $(OUT) \
		--page timeseries --as-it-opens --height 900

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
