# The verbs of this repository. CI (.ci/run) and people use the same ones.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

# Where cargo puts what it builds; the demo's state is always under target/demo.
OUT := $(or $(CARGO_TARGET_DIR),target)
# In CI the lock file is law; on a desk it may follow the manifest being edited.
LOCKED := $(if $(CI),--locked)

# Settings of the verbs below.
DIR ?=
ARGS ?=
QUICK ?=
ROUNDS ?=
ROWS ?=
FAULT ?=
SEED ?=
UPDATE ?=
SEEDS ?= 500
RUNS ?= 300
TARGET ?=
SECONDS_EACH ?= 60
TOOLS ?= cargo-deny
# The simulator is the test binary `sim`; its longest test runs the seeds.
SIM := cargo test $(LOCKED) --quiet --profile sim --package hive --test sim
SIM_ARGS ?= -- --nocapture

.PHONY: help demo dev build check test sim sim-mutants net fuzz faults bench instructions services-quietly services tools

help: ## list the verbs
	@echo 'make demo       # build and run Hive on this repository'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## run a real job over this repository, or DIR=/some/folder; run again to resume
	@$(OUT)/release/hive demo $(if $(DIR),--dir '$(DIR)') $(ARGS)

dev: build ## run the fleet and stay up; ARGS go to `hive dev`
	@$(OUT)/release/hive dev $(ARGS)

build: ## build the three binaries, optimised
	@cargo build $(LOCKED) --release --bins

check: ## format, lints, docs, dependency rules, protocol rules
	@.ci/check

test: ## all tests with their set-up; says what it skipped; ARGS go to the runner
	@.ci/test $(ARGS)

sim: ## simulate SEEDS=500 seeds, half per mode; HIVE_SEED=n replays one
	@HIVE_SEEDS=$(SEEDS) $(SIM) $(SIM_ARGS)

# The test knows the mutants: built with them it passes when each (or only HIVE_MUTANT) is caught.
sim-mutants: ## plant bugs and see the simulator catch them; HIVE_MUTANT=name for one
	@HIVE_SEEDS=$(or $(filter-out 500,$(SEEDS)),1000) RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/.ci/rustc-mutant $(SIM) $(SIM_ARGS)

net: ## run the real shells over a simulated network, RUNS=300 seeds; HIVE_SEED=n replays one
	@HIVE_NET_RUNS=$(RUNS) cargo test $(LOCKED) --quiet --package hive --test net -- --nocapture

fuzz: ## fuzz each target, or TARGET, for SECONDS_EACH=60 (`make test` runs them all for a moment)
	@TARGET='$(TARGET)' SECONDS_EACH='$(SECONDS_EACH)' .ci/fuzz

# Variables of the same names on the command line or in the environment say what is done; see tests/faults/main.rs.
faults: services-quietly ## crash lab: QUICK=1 each fault once, ROUNDS=n random rounds, FAULT=text, SEED=n
	@QUICK='$(QUICK)' ROUNDS='$(ROUNDS)' FAULT='$(FAULT)' SEED='$(SEED)' UPDATE='$(UPDATE)' \
	  cargo test $(LOCKED) --quiet --release --package hive --test faults

# Shortened runs are for seeing that they work; they take the programs as `make build` makes them.
BENCH_PROFILE := $(if $(QUICK),release,dist)

# The simulator is built first, so that its build is not part of what is measured.
bench: ## measure rows 1-8 beside their yardsticks; ROWS=1,2 picks, QUICK=1 shortens
	@cargo test $(LOCKED) --quiet --profile sim --package hive --test sim --no-run
	@ROWS='$(ROWS)' QUICK='$(QUICK)' cargo bench $(LOCKED) --quiet --profile $(BENCH_PROFILE) --package hive --bench rows

# The simulator's profile: built in CI anyway, and callgrind counts the same on every machine.
instructions: services-quietly ## count instructions of scheduler and codecs (callgrind); UPDATE=1 keeps them
	@UPDATE='$(UPDATE)' cargo bench $(LOCKED) --quiet --profile sim --package hive --bench instructions

services-quietly:
	@.ci/services >/dev/null || echo 'something is missing (above); what needs it is skipped' >&2

services: ## fetch what tests need from elsewhere (buf, Python gRPC, etcd, strace, libfaketime, valgrind) into target/services
	@.ci/services

tools: ## build cargo-deny into target/tools; TOOLS="cargo-deny cargo-nextest" for more
	@TOOLS='$(TOOLS)' .ci/tools
