SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Nothing here is to reach a Vault of whoever runs it.
unexport $(filter VAULT_% BAO_%,$(.VARIABLES))

PLUGIN  := vault-plugin-secrets-tokenbroker
VERSION ?= v0.1.0
LDFLAGS := -s -w -X $(PLUGIN)/internal/version.Version=$(VERSION)

# The same bytes wherever they are built, whatever the environment and `go env -w` say: they
# say where Go and modules are from, and no more. (To Go, what is empty is not set, and so
# its file says what it is.)
SOURCES = $(shell go env | grep -E '^GO(AUTH|CACHE|INSECURE|MODCACHE|NOPROXY|NOSUMDB|PATH|PRIVATE|PROXY|SUMDB|TOOLCHAIN|VCS)=')
ALIKE = GOENV=off $(SOURCES) CGO_ENABLED=0 GOFLAGS= GOEXPERIMENT= GOFIPS140=off GOWORK=off GOAMD64=v1 GOARM64=v8.0
BUILD = $(ALIKE) go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 freebsd/amd64 freebsd/arm64

# The server of the tests is the pinned one, unless VAULT names another, by a path or as a
# command.
SERVER := $(if $(VAULT),$(or $(shell command -v '$(VAULT)'),$(VAULT)),bin/vault)

# The OAuth 2.0 authorization server of the tests.
AUTHSERVER := tools/oidc-provider

# Tests and tools are built without C, all in one way: what one of them compiles, the others
# take from Go's cache. (The race detector alone is in C.)
export CGO_ENABLED := 0

# What `make test` runs beside the end-to-end tests, which wait for time to pass while these
# use the processors: in this order, and as many at once as there are jobs but one (after
# them, with one job).
PARTS := unit-race lint sim faults-short fuzz-short dist-test-short examples

# Measures a part, or a tool that is built. `make test` sets TIMES.
TIMED := tools/parts/timed.sh

# Go ends a test binary after 10 minutes if it is not told otherwise, and a busy machine takes
# longer. What bounds the whole is the limit of who runs it, such as CI's job.
export LIMIT := -timeout=3h

.PHONY: help packages build dist vault demo recording test e2e $(PARTS) unit fuzz faults dist-test bench benchstat docs vet fmt clean FORCE

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: bin/$(PLUGIN) ## Build the plugin into bin/.

bin/$(PLUGIN): FORCE | version
	$(BUILD) -o $@ ./cmd/$(PLUGIN)

# Before a version becomes part of a command.
.PHONY: version
version: export VERSION := $(VERSION)
version:
	@tools/dist/version.sh

# Its files are removed first, so this is no business of the environment's.
DIST := dist
dist: export GO_ALIKE = $(ALIKE)
dist: export GO_BUILD = $(BUILD)
dist: export PLATFORMS := $(PLATFORMS)
dist: export VERSION := $(VERSION)
dist: export SBOM := $(abspath bin/cyclonedx-gomod)
dist: export OCI := $(abspath bin/oci)
dist: export LICENSES := $(abspath bin/licenses)
dist: bin/cyclonedx-gomod bin/oci bin/licenses | version jq zip ## Build a release's files into dist/ (VERSION=vX.Y.Z).
	@tools/dist/dist.sh $(DIST)

dist-test: $(SERVER) | buildah git jq zip ## Test what `make dist` builds, and that it builds the same twice.
	@PLATFORMS='$(PLATFORMS)' tools/dist/test.sh

# The same for this machine's platform only; the release workflow tests all.
dist-test-short: $(SERVER) bin/cyclonedx-gomod | buildah git jq zip
	@PLATFORMS="$$(go env GOHOSTOS)/$$(go env GOHOSTARCH)" tools/dist/test.sh

.PHONY: dist-run
dist-run: $(SERVER) | version
	@VAULT=$(abspath $(SERVER)) VERSION=$(VERSION) tools/dist/run.sh $(DIST)

vault: bin/vault ## Build the pinned Vault server into bin/ (for tests and the demo).

bin/vault: tools/vault/go.mod tools/vault/go.sum tools/vault/build.sh
	@$(TIMED) $@ tools/vault/build.sh $@

demo: build ## Show the engine at work, with simulated vendors and a real Vault.
	@if [ -n "$${VAULT:-}" ]; then \
		server=$$(command -v "$$VAULT") || { echo "VAULT is $$VAULT, which is no program." >&2; exit 1; }; \
	else server=$$(command -v vault || command -v bao || true); fi; \
	if [ -z "$$server" ]; then $(MAKE) --no-print-directory vault; server=bin/vault; fi; \
	go build -o bin/demo ./internal/demo; \
	exec bin/demo -vault="$$server" -plugin=bin/$(PLUGIN)

# The recorder ends when its input does, which a terminal that nobody types into never
# does. What is waited for in the demo is cut short.
recording: build $(SERVER) | termtosvg ## Record the demo in docs/demo.svg, which the README shows.
	go build -o bin/demo ./internal/demo
	termtosvg record bin/demo.cast -g 92x34 0<>/dev/ptmx \
		-c 'bin/demo -pace=2s -vault=$(SERVER) -plugin=bin/$(PLUGIN)'
	termtosvg render bin/demo.cast docs/demo.svg -m 100 -M 1500 -D 3000 -t window_frame
	go test $(LIMIT) -count=1 -run TestTheRecording ./internal/demo

# Packages first: apt-get runs once at a time.
JOBS ?= 3
test: packages ## Test everything, from a fresh clone on (JOBS=n parts at once).
	@MAKE='$(MAKE)' JOBS='$(JOBS)' TOOLS='$(REAL)' PARTS='$(TIMED_PARTS)' NEEDS_TOOLS=timed/dist-test-short tools/parts/all.sh

# A part, measured as a whole.
TIMED_PARTS := $(PARTS:%=timed/%)
.PHONY: $(TIMED_PARTS) timed/e2e
$(TIMED_PARTS) timed/e2e: timed/%:
	@$(TIMED) $* $(MAKE) --no-print-directory $*

unit: ## Run the unit tests: the quick loop.
	go test $(LIMIT) -short ./...

# The recipe checks for gcc by itself: if gcc were a prerequisite, make would start other parts
# while it checks, and this one, which takes longest, last.
unit-race: ## Run the unit tests under the race detector.
	@$(MAKE) --no-print-directory gcc
	CGO_ENABLED=1 go test $(LIMIT) -vet=off -race -short ./...
	go -C bench test $(LIMIT) ./...

SEED ?= 1
sim: ## Simulate thirty days of 200 credentials (SEED=n for another seed).
	go test $(LIMIT) -vet=off -count=1 -run TestThirtyDays -v ./test/simulation -args -seed=$(SEED)

# A finding is written to testdata/fuzz beside its target, and is a test that fails from
# then on. Inputs that reach code which no other does go to Go's cache, for the next run;
# tools/fuzz/promote.sh commits the best of them.
FUZZTIME ?= 5m
fuzz: ## Fuzz all that comes from outside (FUZZTIME=5m for each target).
	@tools/fuzz/run.sh $(FUZZTIME)

fuzz-short:
	@tools/fuzz/run.sh 5s

# What the end-to-end tests need, and find in their environment.
REAL := build $(SERVER) bin/tofu bin/terraform-provider-vault bin/vault-plugin-auth-kubernetes $(AUTHSERVER)/node_modules/.package-lock.json openssl prometheus
REALLY := VAULT=$(abspath $(SERVER)) PLUGIN=$(abspath bin/$(PLUGIN)) PLUGIN_VERSION=$(VERSION) \
	TOFU=$(abspath bin/tofu) TERRAFORM_PROVIDER_VAULT=$(abspath bin/terraform-provider-vault) \
	KUBERNETES_AUTH=$(abspath bin/vault-plugin-auth-kubernetes) AUTHSERVER=$(abspath $(AUTHSERVER)/server.mjs)

# Those that run in parallel wait for a minute to pass most of the time, and for no
# processor.
e2e: $(REAL) ## Test the plugin as it ships in a real Vault server.
	$(REALLY) go test $(LIMIT) -vet=off -tags e2e -count=1 -parallel 8 ./test/e2e/...

# Tests of faults record what came of them in a file, a row each.
FAULTS := bin/faults.jsonl
faults: export FAULTS_LONG := 1
faults: export FAULTS_TALLY := $(abspath $(FAULTS))
faults: export SEED := $(SEED)
faults: $(REAL) | gcc ## Break things on purpose, at length, and print what came of it (SEED=n for another seed).
	@rm -f $(FAULTS); failed=0; \
	CGO_ENABLED=1 go test $(LIMIT) -race -count=1 -run '^TestFault' ./... || failed=1; \
	$(REALLY) go test $(LIMIT) -tags e2e -count=1 -run '^TestFault' ./test/e2e/... || failed=1; \
	go run ./internal/testing/tally/report $(FAULTS) || failed=1; \
	exit $$failed

# The short form of the matrices that the race detector is too slow for.
faults-short:
	go test $(LIMIT) -vet=off -short -count=1 -run '^TestFault' ./test/faults

# BENCHFLAGS=-quick shows in a few minutes that it works, and rewrites no page.
bench: build $(SERVER) bin/yardstick bin/bench wrk ## Measure the engine beside a plugin that does nothing, and rewrite docs/performance.md.
	bin/bench -vault=$(SERVER) -engine=bin/$(PLUGIN) -yardstick=bin/yardstick \
		-json=bin/bench.json -docs=docs $(BENCHFLAGS)

# Built as the plugin is.
bin/yardstick: FORCE
	$(ALIKE) go -C bench build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(abspath $@) ./yardstick

bin/bench: FORCE
	go -C bench build -o $(abspath $@) .

# What stands in bench/baseline.txt was measured on the machine that it names: compare on
# one machine alone, and write it anew with UPDATE=1 beside a change that is meant.
BASELINE := bench/baseline.txt
GOBENCH := go test $(LIMIT) -run '^$$' -bench . -count 6 -benchtime 200ms . ./internal/broker
benchstat: baseline bin/benchstat ## Compare the Go benchmarks with the last ones kept (UPDATE=1 keeps these instead).
	@$(GOBENCH) | tee bin/benchmarks.txt
	@if [ -n "$(UPDATE)" ]; then cp bin/benchmarks.txt $(BASELINE); else bin/benchstat $(BASELINE) bin/benchmarks.txt; fi

.PHONY: baseline
baseline:
	@[ -n "$(UPDATE)" ] || [ -e $(BASELINE) ] || \
		{ echo '$(BASELINE) is not there to compare with: write it with UPDATE=1.' >&2; exit 1; }

bin/benchstat: tools/benchstat/go.mod tools/benchstat/go.sum
	go -C tools/benchstat build -o $(abspath $@) golang.org/x/perf/cmd/benchstat

docs: ## Write docs/api.md from the engine's path definitions, and the presets' table.
	go test $(LIMIT) -count=1 -run 'TestTheAPIReferenceIsCurrent|TestThePresetTableIsCurrent' . -args -write-docs

bin/tofu: tools/tofu/go.mod tools/tofu/go.sum
	@echo 'Building OpenTofu (3 to 4 minutes with empty caches) …'
	$(TIMED) $@ go -C tools/tofu build -ldflags '-s -w' \
		-o $(abspath $@) github.com/opentofu/opentofu/cmd/tofu

bin/terraform-provider-vault: tools/terraform-provider-vault/go.mod tools/terraform-provider-vault/go.sum
	@echo 'Building the Vault provider of Terraform (a minute or two with empty caches) …'
	$(TIMED) $@ go -C tools/terraform-provider-vault build -ldflags '-s -w' \
		-o $(abspath $@) github.com/hashicorp/terraform-provider-vault

# The auth method that the pinned server is built without.
bin/vault-plugin-auth-kubernetes: tools/kubernetes-auth/go.mod tools/kubernetes-auth/go.sum
	@echo "Building Vault's auth method for Kubernetes (a minute with empty caches) …"
	$(TIMED) $@ go -C tools/kubernetes-auth build -ldflags '-s -w' \
		-o $(abspath $@) github.com/hashicorp/vault-plugin-auth-kubernetes/cmd/vault-plugin-auth-kubernetes

$(AUTHSERVER)/node_modules/.package-lock.json: $(AUTHSERVER)/package.json $(AUTHSERVER)/package-lock.json | npm
	@echo 'Installing oidc-provider, the authorization server of the tests (seconds) …'
	cd $(AUTHSERVER) && npm ci

# As package.json has it.
NODE := 20.19
.PHONY: npm
npm:
	@command -v npm >/dev/null || tools/packages/install.sh 'npm, which comes with Node.js,' nodejs npm
	@printf '%s\n' v$(NODE) "$$(node --version)" | sort -CV || \
		{ echo "Node.js $(NODE) or later is needed, and $$(command -v node) is $$(node --version). Install a later one,"; \
		echo 'from https://nodejs.org/en/download or as you usually do, and have it first in PATH.'; exit 1; } >&2

# Debian's packages, by the names of their commands: gcc builds what Go's race detector is
# in, pages make keys with openssl, wrk loads the benchmark's servers, buildah builds images
# without a daemon, prometheus brings promtool.
PACKAGES := buildah gcc git jq openssl prometheus shellcheck termtosvg wrk zip
packages: ## Install what the tests need of Debian's packages, if it is missing.
	@missing=(); for command in $(filter-out gcc,$(PACKAGES)); do \
		command -v $$command >/dev/null || missing+=($$command); done; \
	if [ $${#missing[@]} -gt 0 ]; then tools/packages/install.sh "$${missing[*]}" "$${missing[@]}"; fi
	@$(MAKE) --no-print-directory gcc npm

.PHONY: $(PACKAGES)
$(filter-out gcc,$(PACKAGES)):
	@command -v $@ >/dev/null || tools/packages/install.sh $@ $@

gcc:
	@echo '#include <stdlib.h>' | $$(go env CC) -E - >/dev/null 2>&1 || \
		tools/packages/install.sh 'A C compiler, for tests that find races,' gcc libc6-dev

examples: ## Test the Kubernetes manifests against the types they are written for.
	go -C test/examples test $(LIMIT) -vet=off -count=1 ./...

# Modules of their own that hold code of ours.
MODULES := bench test/examples test/dist tools/oci tools/dockerfile

vet: ## Run Go's vet, which is one of the linters too.
	go vet -tags e2e ./...
	@for module in $(MODULES); do (set -x; go -C $$module vet ./...); done

lint: bin/golangci-lint bin/actionlint bin/dockerfile-lint | shellcheck ## Run the linters, and check formatting and go.mod.
	tools/lint/run.sh . $(MODULES)
	bin/dockerfile-lint Dockerfile
	bin/actionlint
	shellcheck $(wildcard tools/*/*.sh)

bin/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@echo 'Building golangci-lint (a minute or two with empty caches) …'
	$(TIMED) $@ go -C tools/lint build -o $(abspath $@) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/cyclonedx-gomod: tools/sbom/go.mod tools/sbom/go.sum
	$(ALIKE) go -C tools/sbom build -trimpath -buildvcs=false -ldflags '-s -w' \
		-o $(abspath $@) github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

bin/oci: tools/oci/go.mod tools/oci/go.sum tools/oci/main.go
	$(ALIKE) go -C tools/oci build -o $(abspath $@) .

bin/licenses: tools/licenses/main.go
	$(ALIKE) go build -o $@ ./tools/licenses

bin/actionlint: tools/actionlint/go.mod tools/actionlint/go.sum
	$(TIMED) $@ go -C tools/actionlint build -o $(abspath $@) github.com/rhysd/actionlint/cmd/actionlint

bin/dockerfile-lint: tools/dockerfile/go.mod tools/dockerfile/go.sum tools/dockerfile/main.go
	@echo "Building BuildKit's checks of Dockerfiles (a minute or two with empty caches) …"
	$(TIMED) $@ go -C tools/dockerfile build -o $(abspath $@) .

fmt: bin/golangci-lint ## Format the code.
	bin/golangci-lint fmt

clean: ## Remove what was built.
	rm -rf bin dist $(AUTHSERVER)/node_modules
