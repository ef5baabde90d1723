# What is needed is set up in .venv and .venv-demo; a second run finds it there.
.DEFAULT_GOAL := help
.PHONY: help setup demo bench backlog soak chaos simulate test check format lock build clean

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,\
            $(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
PEERS_IN_PYTHON := dbos absurd procrastinate pgqueuer huey
CODE := $(wildcard src tests tools demo bench chaos examples)
PIP := bin/python -m pip install --quiet --disable-pip-version-check --no-input

help:
	@echo "make demo    a CSV import that survives crashes     (DB=sqlite|postgres, CSV=path)"
	@echo "make bench   measures against a floor and peers     (PEERS=1, ONLY=w2, DB=sqlite|postgres, ROUNDS=3, SIZE=small|full)"
	@echo "make chaos   real faults under load, then a checker (SCENARIO=name, DB=sqlite|postgres, SECONDS=20, KEEP=folder)"
	@echo "make backlog measures claims in front of long backlogs (DB=sqlite|postgres, SIZE=small|full)"
	@echo "make soak    a mixed load with faults: does anything grow? (MINUTES=15, DB=sqlite|postgres, EVERY=10, JSON=1, OUT=docs)"
	@echo "make test    the tests                              (ARGS='-k lease')"
	@echo "make simulate  workers, clients and faults in virtual time  (SEEDS=10000, SEED=123, FIRST=0, CORES=1, PLANTED=1)"
	@echo "make check   format, lint, types, imports and sizes"
	@echo "make format  rewrite the code in the project's format"
	@echo "make lock    pin the newest versions of all packages"
	@echo "make build   the wheel and the source archive, in dist/"
	@echo "make clean   remove what the other targets made"

# --- set-up: hashes pin what is fetched; then the package is linked, without a look at any index ---

.venv/.packages: requirements/dev.txt
.venv-demo/.packages: requirements/demo.txt
.venv-bench/.packages: requirements/bench.txt
$(PEERS_IN_PYTHON:%=.venv-bench-%/.packages): .venv-bench-%/.packages: requirements/bench-%.txt
.venv/.packages .venv-demo/.packages .venv-bench/.packages $(PEERS_IN_PYTHON:%=.venv-bench-%/.packages): %/.packages:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (PYTHON=... names one)"; exit 1; }
	@echo "--- setting up $* with $(PYTHON)"
	@$(PYTHON) -m venv --clear $*
	@$*/$(PIP) --require-hashes -r $<
	@touch $@

# npm reads its registry's address from its own settings; the lock holds hashes and no address.
.venv-bench-durably-ts/.packages: bench/peers/durably_ts/package-lock.json
	@echo "--- setting up $(@D) with npm"
	@mkdir -p $(@D)
	@cp bench/peers/durably_ts/package.json bench/peers/durably_ts/package-lock.json $(@D)
	@cd $(@D) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

.venv/.ready .venv-demo/.ready .venv-bench/.ready: %/.ready: %/.packages pyproject.toml
	@$*/$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

setup: .venv/.ready
	@echo "ready: $(BIN)/python"

# --- use ------------------------------------------------------------------------------------------

demo: .venv-demo/.ready
	@.venv-demo/bin/python -m demo $(if $(DB),--db "$(DB)") $(if $(CSV),--csv "$(CSV)")

# A peer that cannot be set up here is left out, and the report says so.
bench: .venv-bench/.ready
ifdef PEERS
	@for peer in $(PEERS_IN_PYTHON) durably-ts; do \
	    $(MAKE) --no-print-directory .venv-bench-$$peer/.packages || echo "--- $$peer cannot be installed here"; \
	done
endif
	@.venv-bench/bin/python -m bench $(if $(PEERS),--peers) $(if $(ONLY),--only "$(ONLY)") $(if $(DB),--db "$(DB)") \
	    $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SIZE),--size $(SIZE)) $(if $(OUT),--out "$(OUT)")

chaos: .venv/.ready
	@$(BIN)/python -m chaos $(if $(SCENARIO),--scenario "$(SCENARIO)") $(if $(DB),--db "$(DB)") \
	    $(if $(SECONDS),--seconds "$(SECONDS)") $(if $(KEEP),--keep "$(KEEP)")

backlog: .venv-bench/.ready
	@.venv-bench/bin/python -m bench.backlog $(if $(DB),--db "$(DB)") $(if $(SIZE),--size $(SIZE)) $(if $(OUT),--out "$(OUT)")

soak: .venv-bench/.ready
	@.venv-bench/bin/python -m bench.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(DB),--db "$(DB)") \
	    $(if $(EVERY),--every $(EVERY)) $(if $(JSON),--json) $(if $(OUT),--out "$(OUT)")

test: .venv/.ready
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# SEED=123 prints what happens in that one; PLANTED=1 looks for the bugs of tests/simulation/planted.py.
simulate: .venv/.ready
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),$(if $(PLANTED),500,10000)) --first $(or $(FIRST),0) \
	    $(if $(CORES),--cores $(CORES)) $(if $(SEED),--seed $(SEED)) $(if $(PLANTED),--planted)

check: export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
check: .venv/.ready
	@echo "--- format"
	@$(BIN)/ruff format --check --quiet $(CODE) || { echo "'make format' repairs this"; exit 1; }
	@echo "--- lint"
	@$(BIN)/ruff check --quiet $(CODE)
	@echo "--- types: mypy"
	@$(BIN)/mypy $(CODE)
	@echo "--- types: pyright"
	@$(BIN)/pyright --pythonpath $(BIN)/python $(CODE)
	@echo "--- imports"
	@$(BIN)/lint-imports --no-cache
	@echo "--- sizes"
	@$(BIN)/python -m pytest --quiet tests/test_size.py

format: .venv/.ready
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

build: .venv/.ready
	@$(BIN)/python -m hatchling build

# One resolution serves every platform and Python version. No index is named in the result.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links

lock: .venv/.ready
	@$(LOCK) pyproject.toml requirements/dev.in --all-extras --output-file requirements/dev.txt
	@$(LOCK) pyproject.toml requirements/demo.in --extra postgres --extra cli --output-file requirements/demo.txt
	@$(LOCK) pyproject.toml requirements/bench.in --extra postgres --extra http --extra cli --output-file requirements/bench.txt
	@for peer in $(PEERS_IN_PYTHON); do \
	    $(LOCK) requirements/bench-$$peer.in --output-file requirements/bench-$$peer.txt; \
	done
	@cd bench/peers/durably_ts && npm install --package-lock-only --omit-lockfile-registry-resolved=true \
	    --no-audit --no-fund --loglevel=error

clean:
	@rm -rf .venv .venv-demo .venv-bench* dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
