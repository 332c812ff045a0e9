# Two commands matter: `make bench` and `make test`. Both do their own set-up. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
CONSUMERS := .venv-consumers
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --progress-bar off

export JAX_PLATFORMS ?= cpu

.DEFAULT_GOAL := help
.PHONY: help bench bench-full test lint types consumers golden reference throughput train tune clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# --- set-up: an environment is rebuilt when what it depends on changes ------------------------------------------------

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "qkd_gym needs Python >= 3.11, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "[set-up] creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.bench: $(VENV)/.created pyproject.toml constraints.txt
	@echo "[set-up] installing qkd_gym with what the benchmark needs (a minute or two)"
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[evaluation,bench,render]"
	@touch $@

$(VENV)/.dev: $(VENV)/.bench
	@echo "[set-up] installing trainers and test tools (a few minutes; PyTorch is large)"
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[evaluation,agents,bench,render,dev]"
	@touch $@

$(CONSUMERS)/.ready: pyproject.toml constraints-consumers.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qkd_gym needs Python >= 3.11" >&2; exit 1; }
	@echo "[set-up] creating $(CONSUMERS): foreign trainers that pin other versions than ours (a few minutes)"
	@$(PYTHON) -m venv $(CONSUMERS)
	@$(CONSUMERS)/bin/python $(PIP_INSTALL) -c constraints-consumers.txt -e ".[evaluation,agents,bench]" \
	  gymnax jaxmarl rejax six pytest hypothesis
	@touch $@

# --- what users run ---------------------------------------------------------------------------------------------------

bench: $(VENV)/.bench  ## score every shipped agent by the quick protocol (about 5 minutes; resumes if killed)
	@$(BIN)/python -m benchmarks.leaderboard --protocol quick

bench-full: $(VENV)/.bench  ## the same by the full protocol: 256 episodes, all scenarios (long)
	@$(BIN)/python -m benchmarks.leaderboard --protocol full

# A worker that crashes ends the run: pytest-xdist hands its test to the next one, and then waits for ever.
TEST := -m pytest -n 2 --dist loadfile --max-worker-restart 0

test: $(VENV)/.dev  ## run the tests
	@$(BIN)/ruff check .
	@$(BIN)/python $(TEST)
	@echo "[test] again in double precision: contract, tasks"
	@QKD_GYM_TEST_X64=1 $(BIN)/python $(TEST) tests/test_core.py tests/test_contract.py tests/envs

consumers: $(CONSUMERS)/.ready  ## train foreign trainers, unmodified, through every face
	@$(CONSUMERS)/bin/python -m pytest -p no:cacheprovider tests/consumers --consumers

# --- what keeps the project honest ------------------------------------------------------------------------------------

lint: $(VENV)/.dev  ## style and import direction
	@$(BIN)/ruff check . && $(BIN)/lint-imports

types: $(VENV)/.dev  ## pyright on the package
	@$(BIN)/pyright

golden: $(VENV)/.dev  ## recompute the reference tables of the physics
	@$(BIN)/python -m benchmarks.validation.golden tests/golden/*.csv

reference: $(VENV)/.dev  ## recompute the frozen reference scores (long; resumes if killed)
	@$(BIN)/python -m benchmarks.reference

throughput: $(CONSUMERS)/.ready  ## speed against other suites and hand-written twins, alternating in one run
	@$(CONSUMERS)/bin/python -m benchmarks.throughput

clean:  ## remove environments and caches (not results)
	rm -rf $(VENV) $(CONSUMERS) .cache .pytest_cache *.egg-info
