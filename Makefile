# What can be done here: `make help`. `make check` is what CI runs.

PYTHON   ?= python3
VENV     := .venv
CODEGEN  := .venv-codegen
BIN      := $(VENV)/bin
TOOLS    := build/tools
RUN      := $(VENV)/.run-stamp
DEV      := $(VENV)/.dev-stamp
GEN      := $(CODEGEN)/.stamp
CODE     := agentmesh meshd meshctl tests bench examples docs
# Of the rooms named above, those that exist by now.
PRESENT   = $(wildcard $(CODE))

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

# ---- environments --------------------------------------------------------------------------------------------

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(RUN): requirements/run.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/run.txt
	$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(RUN)
	$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

$(GEN): requirements/codegen.txt
	@test -x $(CODEGEN)/bin/python || $(PYTHON) -m venv $(CODEGEN)
	$(CODEGEN)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/codegen.txt
	@touch $@

.PHONY: setup
setup: $(DEV) $(GEN) ## Make both environments: .venv and .venv-codegen

# ---- the contract and its Python stubs -------------------------------------------------------------------------

# proto path = package path, so generated imports need no rewriting. Everything is made in build/python-stubs
# first: a proto that does not compile leaves the committed stubs alone.
STUBS_NEW   := build/python-stubs
STUBS       := agentmesh/options/v1 agentmesh/v1
PROTO_FILES  = $(sort $(wildcard proto/agentmesh/*/*.proto proto/agentmesh/*/*/*.proto))

# Our sources need no more than protoc brings along; google/rpc comes from googleapis-common-protos.
define generate
rm -rf $(STUBS_NEW) && mkdir -p $(STUBS_NEW)
PATH="$(CURDIR)/$(CODEGEN)/bin:$$PATH" $(CODEGEN)/bin/python -m grpc_tools.protoc \
	--proto_path=proto --proto_path="$$($(CODEGEN)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	--python_out=$(STUBS_NEW) --grpc_python_out=$(STUBS_NEW) \
	--mypy_out=quiet,readable_stubs:$(STUBS_NEW) --mypy_grpc_out=quiet,readable_stubs:$(STUBS_NEW) \
	$(PROTO_FILES)
find $(STUBS_NEW) -name '*_pb2_grpc.py*' -exec grep -LE '^class [A-Za-z]+Stub\b' {} + | xargs -r rm -f
endef

.PHONY: proto
proto: $(GEN) ## Regenerate the Python stubs under agentmesh/ from proto/
	@$(generate)
	@for room in $(STUBS); do \
		mkdir -p $$room; rm -f $$room/*_pb2*.py $$room/*_pb2*.pyi; \
		test ! -d $(STUBS_NEW)/$$room || cp $(STUBS_NEW)/$$room/* $$room/; \
	done

.PHONY: proto-check
proto-check: $(GEN) ## Fail if the committed stubs are not what proto/ makes
	@$(generate)
	@for room in $(STUBS); do \
		diff --recursive --brief --exclude=__init__.py --exclude=__pycache__ $(STUBS_NEW)/$$room $$room \
		|| { echo 'The stubs are not what proto/ makes: run "make proto" and commit the result.' >&2; exit 1; }; \
	done

# ---- checks ----------------------------------------------------------------------------------------------------

.PHONY: lint
lint: $(DEV) ## Style: ruff's rules and format
	@$(BIN)/ruff check $(PRESENT)
	@$(BIN)/ruff format --check --quiet --diff $(PRESENT)

.PHONY: format
format: $(DEV) ## Put the style right where a program can
	@$(BIN)/ruff check --fix --exit-zero --quiet $(PRESENT)
	@$(BIN)/ruff format $(PRESENT)

.PHONY: types
types: $(DEV) ## Types: mypy --strict
	@$(BIN)/mypy $(PRESENT)

.PHONY: walls
walls: $(DEV) ## Floors and rooms: who may import whom
	@$(BIN)/lint-imports

# The version last released is the first one that a change can break; before it there is nothing to compare with.
.PHONY: contract
contract: $(DEV) ## The contract: buf lint, and buf breaking against the last release tag
	@$(BIN)/buf lint
	@tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true); \
	if test -n "$$tag"; then $(BIN)/buf breaking --against ".git#tag=$$tag"; fi

.PHONY: test
test: $(DEV) ## All tests; PYTEST="-k word" narrows them
	@$(BIN)/python -m pytest $(PYTEST)

.PHONY: faults
faults: $(DEV) ## Break real processes, disks and networks; KILLS=500 CUTS=3000 ... say how often
	@$(BIN)/python -m tests.faults

.PHONY: check
check: lint types walls contract proto-check test ## All that CI asks for

# ---- compiled rooms --------------------------------------------------------------------------------------------

# Built in a copy: a compiled module beside its source would go on running whatever the source says by then.
PRODUCT        := agentmesh meshd meshctl
COMPILED_MESHD := build/compiled
# Runs a program over the copy's modules; tests and bench remain those of the checkout.
OVER_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED_MESHD):$(CURDIR)

$(COMPILED_MESHD)/.stamp: $(DEV) pyproject.toml $(shell find $(PRODUCT) -name '*.py')
	@rm -rf $(COMPILED_MESHD) && mkdir -p $(COMPILED_MESHD)
	@cp -r pyproject.toml README.md LICENSE $(PRODUCT) $(COMPILED_MESHD)
	@cd $(COMPILED_MESHD) && HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(CURDIR)/$(BIN)/python -m pip wheel --quiet \
		--disable-pip-version-check --no-deps --no-build-isolation --wheel-dir . .
	@touch $@

.PHONY: compiled
compiled: $(COMPILED_MESHD)/.stamp ## The hot rooms as C extensions: a tree and a wheel in build/compiled

# Those that ask most of the compiled rooms, and one that asks whether it is them that run; the simulator has a compiled copy of its own.
COMPILED_TESTS ?= tests/unit/domain tests/unit/engine tests/unit/store tests/unit/wire tests/property tests/wire/mesh \
	tests/wire/auth tests/unit/ops/test_running.py tests/e2e/test_six_commands.py

.PHONY: test-compiled
test-compiled: $(if $(shell command -v cc),test-compiled-cc) ## Tests over the compiled rooms
	@$(if $(shell command -v cc),,echo 'compiled: skipped for want of a toolchain: cc')

.PHONY: test-compiled-cc
test-compiled-cc: compiled
	@$(OVER_COMPILED) $(BIN)/python -m pytest --override-ini pythonpath= $(COMPILED_TESTS) $(PYTEST)

# ---- proof -----------------------------------------------------------------------------------------------------

SEEDS     ?= 1000
FIRST     ?= 1
PROCESSES ?= 1

# Another Python of the same version: one that was built with its profile takes less (SIM_PYTHON=/usr/bin/python3.11).
SIM_PYTHON ?= $(CURDIR)/$(BIN)/python

# For long runs: a copy of what lives in a world, compiled. What it finds is replayed without it.
COMPILED_SIM  := build/compiled-sim
# Nothing replaces a function of the copy from outside. Not for this machine alone: a product and a sum in one instruction are
# rounded once, and the worlds would no longer be those of the sources.
SIM_CFLAGS    := -fno-semantic-interposition -fno-plt -ffp-contract=off
SIM_SOURCES    = $(shell git ls-files agentmesh meshd tests/simulation tests/__init__.py)
SIM_COMPILED   = $(filter-out %/__init__.py %/__main__.py $(addprefix tests/simulation/,history.py mutants.py progress.py test_%.py violation.py), \
                   $(filter agentmesh/session.py $(addprefix meshd/,domain/%.py store/rows.py engine/restore.py wire/codec/frames.py) tests/simulation/%.py,$(SIM_SOURCES)))

.PHONY: sim
sim: $(DEV) $(if $(COMPILED),$(COMPILED_SIM)/made) ## Simulate SEEDS=n worlds of faults (COMPILED=1: in a compiled copy), or replay and shrink one: SEED=k
	@$(if $(COMPILED),cd $(COMPILED_SIM) &&) PYTHONPATH=.:$(wildcard $(CURDIR)/$(VENV)/lib/python3*/site-packages) $(SIM_PYTHON) -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST) --processes $(PROCESSES) --keep $(CURDIR)/build/sim)

$(COMPILED_SIM)/made: $(DEV) $(SIM_SOURCES)
	@rm -rf $(@D) && mkdir -p $(@D) && cp --parents $(SIM_SOURCES) $(@D)
	@cd $(@D) && MYPYC_OPT_LEVEL=2 MYPYC_DEBUG_LEVEL=0 CFLAGS="$(SIM_CFLAGS)" $(CURDIR)/$(BIN)/mypyc --config-file $(CURDIR)/pyproject.toml $(SIM_COMPILED) >mypyc.log 2>&1 \
	  || { tail -20 mypyc.log; exit 1; }
	@touch $@

MUTANTS      ?= 0
MUTANT_SEEDS ?= 500

.PHONY: sim-mutants
sim-mutants: $(DEV) ## Break the domain's guards one by one: the simulator must notice; MUTANTS=n takes a sample
	@nice $(BIN)/python -m tests.simulation --mutants $(MUTANTS) --seeds $(MUTANT_SEEDS)

# ---- to look at it working -------------------------------------------------------------------------------------

.PHONY: demo
demo: $(RUN) ## A mesh, a few agents and their tasks, in one minute
	@$(BIN)/python -m examples.demo

.PHONY: bench
bench: $(RUN) $(if $(COMPILED),compiled) ## Measure it on this machine, beside a bare gRPC server (COMPILED=1: with compiled rooms)
	@$(if $(COMPILED),$(OVER_COMPILED)) $(BIN)/python -m bench

.PHONY: bench-scale
bench-scale: $(RUN) ## Measure fleets of 1,000 and 10,000 agents, and a million open tasks
	@$(BIN)/python -m bench.scale

# Each peer in an environment of its own. One that cannot be had is named by the benchmark and left out.
PEERS       := celery dramatiq dask ray jetstream
NATS_SERVER := 2.15.2

build/peers/%/.stamp: bench/peers/requirements-%.txt
	@test -x build/peers/$*/bin/python || $(PYTHON) -m venv build/peers/$*
	@build/peers/$*/bin/python $(PIP_INSTALL) --require-hashes -r $< && touch $@ || echo '$*: not installed' >&2

build/peers/bin/nats-server:
	@! command -v go > /dev/null || GOBIN=$(CURDIR)/build/peers/bin go install \
		github.com/nats-io/nats-server/v2@v$(NATS_SERVER) || echo 'nats-server: not built' >&2

.PHONY: bench-peers
bench-peers: $(RUN) $(PEERS:%=build/peers/%/.stamp) build/peers/bin/nats-server ## The same no-ops on what one would take instead
	@$(BIN)/python -m bench.peers

build/plots/.stamp: requirements/plots.txt
	@test -x build/plots/bin/python || $(PYTHON) -m venv build/plots
	@build/plots/bin/python $(PIP_INSTALL) --require-hashes -r $<
	@touch $@

.PHONY: bench-plots
bench-plots: build/plots/.stamp ## Put the kept runs into docs/benchmarks.md: tables and plots
	@build/plots/bin/python -m bench.plots

.PHONY: overload
overload: $(RUN) ## Ten times the load that it can carry: what is kept, what is refused
	@$(BIN)/python -m bench.overload $(OVERLOAD)

.PHONY: soak
soak: $(RUN) ## Many tasks and cancelled streams, and what they leave behind
	@$(BIN)/python -m bench.soak $(SOAK)

# ---- stubs for other languages ---------------------------------------------------------------------------------

PROTOC_GEN_GO      := 1.36.12
PROTOC_GEN_GO_GRPC := 1.6.2
GRPC_GO            := 1.85.0
PROTOC_GEN_ES      := 2.17.0
TYPESCRIPT         := 5.9.3
GRPC_JAVA          := 1.78.0
PROTOBUF_JAVA      := 4.33.0
GUAVA              := 33.5.0-jre

HAVE_GO   := $(and $(shell command -v go),go)
HAVE_TS   := $(and $(shell command -v node),$(shell command -v npm),ts)
HAVE_JAVA := $(and $(shell command -v javac),$(shell command -v mvn),java)
LANGUAGES := $(HAVE_GO) $(HAVE_TS) $(HAVE_JAVA)
SKIPPED   := $(filter-out $(LANGUAGES),go ts java)
MISSED    := $(if $(SKIPPED),; skipped for want of a toolchain: $(SKIPPED))
OUT       := build/stubs

# As Maven names platforms.
PLATFORM  := $(subst Darwin,osx,$(subst Linux,linux,$(shell uname -s)))-$(subst amd64,x86_64,$(subst arm64,aarch_64,$(subst aarch64,aarch_64,$(shell uname -m))))
MVN_COPY  := mvn --batch-mode --no-transfer-progress --quiet -Dstyle.color=never dependency:copy -Dmdep.overWriteReleases=false

$(TOOLS)/go: Makefile
	mkdir -p $(TOOLS)/bin
	GOBIN=$(CURDIR)/$(TOOLS)/bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v$(PROTOC_GEN_GO)
	GOBIN=$(CURDIR)/$(TOOLS)/bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v$(PROTOC_GEN_GO_GRPC)
	@touch $@

$(TOOLS)/ts: Makefile
	mkdir -p $(TOOLS)
	npm install --silent --no-audit --no-fund --prefix $(TOOLS) \
		@bufbuild/protoc-gen-es@$(PROTOC_GEN_ES) @bufbuild/protobuf@$(PROTOC_GEN_ES) typescript@$(TYPESCRIPT)
	@touch $@

$(TOOLS)/java: Makefile
	mkdir -p $(TOOLS)/bin $(TOOLS)/jars
	$(MVN_COPY) -Dartifact=io.grpc:protoc-gen-grpc-java:$(GRPC_JAVA):exe:$(PLATFORM) -DoutputDirectory=$(TOOLS)/bin
	install -m 0755 $(TOOLS)/bin/protoc-gen-grpc-java-$(GRPC_JAVA)-$(PLATFORM).exe $(TOOLS)/bin/protoc-gen-grpc-java
	$(MVN_COPY) -Dartifact=com.google.protobuf:protoc:$(PROTOBUF_JAVA):exe:$(PLATFORM) -DoutputDirectory=$(TOOLS)/bin
	install -m 0755 $(TOOLS)/bin/protoc-$(PROTOBUF_JAVA)-$(PLATFORM).exe $(TOOLS)/bin/protoc
	for jar in io.grpc:grpc-api:$(GRPC_JAVA) io.grpc:grpc-stub:$(GRPC_JAVA) io.grpc:grpc-protobuf:$(GRPC_JAVA) \
		com.google.protobuf:protobuf-java:$(PROTOBUF_JAVA) com.google.guava:guava:$(GUAVA); do \
		$(MVN_COPY) -Dartifact=$$jar -DoutputDirectory=$(TOOLS)/jars || exit 1; \
	done
	@touch $@

# buf.gen.yaml without the lines of the languages whose toolchain is missing.
.PHONY: stubs
stubs: $(DEV) $(GEN) $(addprefix $(TOOLS)/,$(LANGUAGES)) ## Stubs for Go, TypeScript and Java, under build/stubs
	@rm -rf $(OUT) && mkdir -p $(OUT)
	@grep -vE '$(OUT)/($(or $(subst $() ,|,$(strip $(SKIPPED))),none)),' buf.gen.yaml > build/buf.gen.yaml
	@$(BIN)/buf generate --template build/buf.gen.yaml
	@echo 'made: $(or $(LANGUAGES),none)$(MISSED)'

.PHONY: stubs-check
stubs-check: stubs $(addprefix stubs-check-,$(LANGUAGES)) ## Compile those stubs, each where its toolchain is present
	@echo 'compiled: $(or $(LANGUAGES),none)$(MISSED)'

.PHONY: stubs-check-go stubs-check-ts stubs-check-java
stubs-check-go: stubs
	@mkdir -p $(OUT)/go/go_agent && cp examples/go_agent/main.go $(OUT)/go/go_agent/
	@cd $(OUT)/go && go mod init agentmesh/gen 2>/dev/null \
		&& go mod edit -require=google.golang.org/grpc@v$(GRPC_GO) -require=google.golang.org/protobuf@v$(PROTOC_GEN_GO) \
		&& go mod tidy 2>/dev/null && go vet ./...

stubs-check-ts: stubs
	@ln -sfn ../tools/node_modules $(OUT)/node_modules
	@cd $(OUT)/ts && ../node_modules/.bin/tsc --noEmit --strict --target es2022 --module nodenext \
		--skipLibCheck $$(find . -name '*.ts')

stubs-check-java: stubs
	@javac -nowarn -proc:none -d build/java-classes -cp '$(TOOLS)/jars/*' $$(find $(OUT)/java -name '*.java') \
		> build/javac.log 2>&1 || { cat build/javac.log; exit 1; }

# An agent without SDK completes tasks of a real meshd: an early check that the contract serves other languages.
.PHONY: polyglot-check
polyglot-check: ## An agent in Go, by generated stubs alone, completes tasks
	@$(if $(HAVE_GO),$(MAKE) --no-print-directory LANGUAGES=go MISSED= polyglot-check-go,\
		echo 'polyglot: skipped for want of a toolchain: go')

.PHONY: polyglot-check-go
polyglot-check-go: stubs-check-go
	@cd $(OUT)/go && go build -o $(CURDIR)/build/go-agent ./go_agent
	@$(BIN)/python -m tests.contract.polyglot.complete_a_task go build/go-agent

# ---- pages made from the code ----------------------------------------------------------------------------------

.PHONY: docs
docs: $(DEV) ## Renew what is made from the code: docs/reference, parts of the concepts, deploy/meshd.toml
	@$(BIN)/python -m docs.generate

# ---- upkeep ----------------------------------------------------------------------------------------------------

LOCK := --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	--python-version 3.11

.PHONY: lock
lock: ## Pin the newest versions that pyproject.toml admits: requirements/*.txt
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python $(PIP_INSTALL) uv; }
	@.venv-lock/bin/uv pip compile $(LOCK) --upgrade pyproject.toml --extra meshd --extra meshctl --group build \
		--output-file requirements/run.txt
	@.venv-lock/bin/uv pip compile $(LOCK) --upgrade pyproject.toml --extra meshd --extra meshctl --group dev \
		--constraint requirements/run.txt --output-file requirements/dev.txt
	@.venv-lock/bin/uv pip compile $(LOCK) --upgrade --group codegen --output-file requirements/codegen.txt
	@.venv-lock/bin/uv pip compile $(LOCK) --upgrade --group plots --output-file requirements/plots.txt
	@for peer in $(PEERS); do .venv-lock/bin/uv pip compile $(LOCK) --upgrade --group peer-$$peer \
		--output-file bench/peers/requirements-$$peer.txt || exit 1; done

.PHONY: clean
clean: ## Remove all that was built, environments included
	rm -rf build dist $(VENV) $(CODEGEN) .venv-lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
