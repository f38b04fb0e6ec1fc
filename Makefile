# Two commands matter: 'make demo' and 'make test'. Both set up what they need.

PYTHON ?= python3
OUT ?= runs/demo
ARGS ?=
BENCH ?= $(sort $(filter-out benchmarks/mc_maze.py,$(wildcard benchmarks/[a-z]*.py)))

BIN := .venv/bin
STAMP := .venv/.installed

# Idle threads sleep instead of spinning: matters whenever two processes share the cores.
export OMP_WAIT_POLICY = passive
export ARGS

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint types bench docs wheel clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## (.*)/\1|\2/' \
		| while IFS='|' read -r target text; do printf '  make %-7s %s\n' "$$target" "$$text"; done

setup: $(STAMP) ## create .venv and install, quick if nothing changed (PYTHON=python3.12 to choose one)

demo: $(STAMP) ## the main job on a simulated brain, ends with the path of its report (OUT=runs/demo)
	$(BIN)/neurobridge demo --out $(OUT) $(ARGS)

test: lint ## style, import contract and all tests, in two processes (ARGS="-m 'not slow'" leaves out the whole path)
	@printf '%s\n' tests/pipeline 'tests --ignore=tests/pipeline' | OMP_NUM_THREADS=1 xargs -P 2 -I% sh -c \
		'log=$$(mktemp); eval "$(BIN)/python -m pytest % $$ARGS" > "$$log" 2>&1; code=$$?; cat "$$log"; rm "$$log"; \
		[ $$code -eq 5 ] || exit $$code'

lint: $(STAMP) ## style, formatting and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP) ## pyright, errors only (apart from test: it takes minutes on a busy machine)
	$(BIN)/pyright --level error

bench: $(STAMP) ## run the benchmarks, fail if a bar is missed (BENCH=benchmarks/demo_quality.py for one)
	@missed=0; for file in $(BENCH); do echo "== $$file"; $(BIN)/python "$$file" || missed=1; done; exit $$missed

docs: .venv/.docs ## build the pages into build/docs, warnings are errors (installs the extra docs)
	$(BIN)/sphinx-build -W --keep-going docs build/docs
	@echo "open build/docs/index.html"

wheel: ## build the wheel into dist/ and try it in an empty environment, offline (some minutes)
	PYTHON=$(PYTHON) .ci/wheel

clean: ## delete .venv and caches; keeps runs and data
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone, so that the build already there, or the one chosen for this machine, is never replaced.
# ibl-bwb-eval (only tests compare with it) pins numpy, scipy and torch to older releases than it needs: no dependencies.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0] + ': name another one, as in make setup PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install -e '.[dev]' -c constraints.txt
	$(BIN)/python -m pip install --no-deps ibl-bwb-eval==0.1.0
	@touch $@

.venv/.docs: $(STAMP)
	$(BIN)/python -m pip install -e '.[docs]' -c constraints.txt
	@touch $@
