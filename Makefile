SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Keep every target away from the Vault server that the caller's shell points at.
unexport $(filter VAULT_% BAO_%,$(.VARIABLES))

PLUGIN  := vault-plugin-secrets-tokenbroker
VERSION ?= v0.1.0
LDFLAGS := -s -w -X $(PLUGIN)/internal/version.Version=$(VERSION)

# Builds are reproducible: of the environment and `go env -w`, only the settings that say
# where Go and the modules come from have an effect. GOENV=off is needed because Go takes an
# empty variable as unset, and would read its value from the file that `go env -w` writes.
GO_SOURCES = $(shell go env | grep -E '^GO(AUTH|CACHE|INSECURE|MODCACHE|NOPROXY|NOSUMDB|PATH|PRIVATE|PROXY|SUMDB|TOOLCHAIN|VCS)=')
REPRODUCIBLE = GOENV=off $(GO_SOURCES) CGO_ENABLED=0 GOFLAGS= GOEXPERIMENT= GOFIPS140=off GOWORK=off GOAMD64=v1 GOARM64=v8.0
BUILD = $(REPRODUCIBLE) go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 freebsd/amd64 freebsd/arm64

# The tests run the pinned server, unless VAULT names another one (a path or a command).
SERVER := $(if $(VAULT),$(or $(shell command -v '$(VAULT)'),$(VAULT)),bin/vault)

# The OAuth 2.0 authorization server that the tests run.
AUTHSERVER := tools/oidc-provider

# The example of a client for Node.js.
NODECLIENT := examples/clients

# Build tests and tools without cgo, and all in the same way, so that they share Go's build
# cache. Only the race detector needs cgo.
export CGO_ENABLED := 0

# The parts that `make test` runs beside the end-to-end tests, in this order. The end-to-end
# tests mostly wait, so the parts use the processors meanwhile, JOBS-1 at a time. With one
# job, they run after the end-to-end tests.
PARTS := unit-race lint sim faults-short fuzz-short dist-test-short examples site-test

# Records how long a part, or the build of a tool, takes. `make test` sets TIMES.
TIMED := tools/parts/timed.sh

# Go's default limit for a test binary is 10 minutes, which is too short on a busy machine.
# The caller, such as a CI job, limits the run as a whole.
export LIMIT := -timeout=3h

.PHONY: help packages build dist vault demo playground recording test test-all kubernetes e2e $(PARTS) unit fuzz faults dist-test bench storm benchstat docs site vet fmt clean FORCE

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: bin/$(PLUGIN) ## Build the plugin into bin/.

bin/$(PLUGIN): FORCE | version
	@echo 'building $@ $(VERSION)'
	@$(BUILD) -o $@ ./cmd/$(PLUGIN)

# Checks VERSION before it becomes part of a command.
.PHONY: version
version: export VERSION := $(VERSION)
version:
	@tools/dist/version.sh

# `make dist` removes this folder first, so the environment must not set it.
DIST := dist
dist: export GO_ENV = $(REPRODUCIBLE)
dist: export GO_BUILD = $(BUILD)
dist: export PLATFORMS := $(PLATFORMS)
dist: export VERSION := $(VERSION)
dist: export SBOM := $(abspath bin/cyclonedx-gomod)
dist: export OCI := $(abspath bin/oci)
dist: export LICENSES := $(abspath bin/licenses)
dist: export NFPM := $(abspath bin/nfpm)
dist: bin/cyclonedx-gomod bin/oci bin/licenses bin/nfpm | version jq zip ## Build the files of a release into dist/ (VERSION=vX.Y.Z).
	@tools/dist/dist.sh $(DIST)

dist-test: $(SERVER) | buildah fakeroot git jq zip ## Test the files that `make dist` builds, and that the build is reproducible.
	@PLATFORMS='$(PLATFORMS)' tools/dist/test.sh

# The same, for this machine's platform only. The release workflow tests all platforms.
dist-test-short: $(SERVER) bin/cyclonedx-gomod bin/nfpm | buildah fakeroot git jq zip
	@PLATFORMS="$$(go env GOHOSTOS)/$$(go env GOHOSTARCH)" tools/dist/test.sh

.PHONY: dist-run
dist-run: $(SERVER) | fakeroot version
	@VAULT=$(abspath $(SERVER)) VERSION=$(VERSION) tools/dist/run.sh $(DIST)

vault: bin/vault ## Build the pinned Vault server into bin/ (for tests and the demo).

bin/vault: tools/vault/go.mod tools/vault/go.sum tools/vault/build.sh
	@$(TIMED) $@ tools/vault/build.sh $@

# Sets server to the binary of a Vault server, and builds one if there is none.
FIND_SERVER = if [ -n "$${VAULT:-}" ]; then \
		server=$$(command -v "$$VAULT") || { echo "VAULT is $$VAULT, which is not an executable: set it to a vault or bao binary." >&2; exit 1; }; \
	else server=$$(command -v vault || command -v bao || true); fi; \
	if [ -z "$$server" ]; then $(MAKE) --no-print-directory vault; server=bin/vault; fi

demo: build ## Run the demo: a real Vault server with simulated vendors.
	@$(FIND_SERVER); go -C test build -o $(abspath bin/demo) ./demo; \
	exec bin/demo -vault="$$server" -plugin=bin/$(PLUGIN)

playground: build ## Run a Vault server and simulated vendors to try the engine with, until Ctrl-C.
	@$(FIND_SERVER); go -C test build -o $(abspath bin/playground) ./playground; \
	exec bin/playground -vault="$$server" -plugin=bin/$(PLUGIN) -version=$(VERSION)

# termtosvg stops at the end of its input, so its input is a terminal without any.
recording: build $(SERVER) | termtosvg ## Record the demo in docs/demo.svg, which the README shows.
	go -C test build -o $(abspath bin/demo) ./demo
	NO_COLOR= TERM=xterm-256color termtosvg record bin/demo.cast -g 92x34 0<>/dev/ptmx \
		-c 'bin/demo -vault=$(SERVER) -plugin=bin/$(PLUGIN)'
	go -C test run ./demo/cut <bin/demo.cast >bin/short.cast
	termtosvg render bin/short.cast docs/demo.svg -D 3000 -t window_frame
	go -C test test $(LIMIT) -count=1 -run TestTheRecording ./demo

# Install packages first, because only one apt-get can run at a time.
JOBS ?= 3
test: packages ## Run all tests and linters (JOBS=n parts in parallel); needs only a clone.
	@MAKE='$(MAKE)' JOBS='$(JOBS)' TOOLS='$(E2E_DEPS)' PARTS='$(TIMED_PARTS)' NEEDS_TOOLS=timed/dist-test-short tools/parts/all.sh

# Each part runs by itself, also after a failure of another.
test-all: ## Run all tests, also those that `make test` leaves out because they take too long: a Kubernetes cluster, the long forms.
	@failed=0; for part in test kubernetes faults dist-test; do \
		$(MAKE) --no-print-directory $$part || failed=1; done; exit $$failed

# timed/<part> runs a part and records how long it takes.
TIMED_PARTS := $(PARTS:%=timed/%)
.PHONY: $(TIMED_PARTS) timed/e2e
$(TIMED_PARTS) timed/e2e: timed/%:
	@$(TIMED) $* $(MAKE) --no-print-directory $*

unit: ## Run the unit tests, without the race detector.
	go test $(LIMIT) -short ./...
	go -C test test $(LIMIT) -short ./...

# gcc is checked in the recipe: as a prerequisite, it would make this part, which takes
# longest, start last.
unit-race: ## Run the unit tests under the race detector.
	@$(MAKE) --no-print-directory gcc
	CGO_ENABLED=1 go test $(LIMIT) -vet=off -race -short ./...
	CGO_ENABLED=1 go -C test test $(LIMIT) -vet=off -race -short ./...
	go -C bench test $(LIMIT) ./...

SEED ?= 1
sim: ## Simulate 30 days of 200 credentials, 200 days of 40 people who consent, 12 days of 300 readers, a year of 200 secrets that rotate, and 10,000 tokens that expire together (SEED=n sets the seed).
	go -C test test $(LIMIT) -vet=off -count=1 -run "TestThirtyDays|TestPeopleConsentThroughTheYear|TestManyReadersOfOneRole|TestAYearOfRotations" -v ./simulation -args -seed=$(SEED)
	go -C test test $(LIMIT) -vet=off -count=1 -v ./storm

# Go writes a failing input to testdata/fuzz beside the fuzz target, where it is a test from
# then on. Inputs that reach new code stay in Go's cache for the next run;
# tools/fuzz/promote.sh copies the best of them to testdata/fuzz.
FUZZTIME ?= 5m
fuzz: ## Fuzz every input from outside (FUZZTIME=5m for each target).
	@tools/fuzz/run.sh $(FUZZTIME)

fuzz-short:
	@tools/fuzz/run.sh 5s

# The prerequisites of the end-to-end tests, and the environment that names them.
E2E_DEPS := build $(SERVER) bin/tofu bin/terraform-provider-vault bin/vault-plugin-auth-kubernetes bin/gitlab-secret $(AUTHSERVER)/node_modules/.package-lock.json \
	$(NODECLIENT)/node_modules/.package-lock.json hvac chromium curl jq openssl prometheus
E2E_ENV := VAULT=$(abspath $(SERVER)) PLUGIN=$(abspath bin/$(PLUGIN)) PLUGIN_VERSION=$(VERSION) \
	TOFU=$(abspath bin/tofu) TERRAFORM_PROVIDER_VAULT=$(abspath bin/terraform-provider-vault) \
	KUBERNETES_AUTH=$(abspath bin/vault-plugin-auth-kubernetes) AUTHSERVER=$(abspath $(AUTHSERVER)/server.mjs) \
	GITLAB_SECRET=$(abspath bin/gitlab-secret)

# Parallel tests mostly wait for time to pass, so more of them run than there are processors.
e2e: $(E2E_DEPS) ## Run the end-to-end tests: the built plugin in a real Vault server.
	@echo 'testing ./e2e with the built plugin in $(SERVER)'
	@$(E2E_ENV) go -C test test $(LIMIT) -vet=off -tags e2e -count=1 -parallel 8 ./e2e/...

# The programs of a Kubernetes cluster, as `make kubernetes` runs it. They are built from the module of the
# folder tools/<module>, which pins them.
KUBERNETES := bin/kube-apiserver bin/kube-controller-manager bin/kubectl bin/etcd bin/vault-secrets-operator bin/external-secrets bin/vault-k8s
$(KUBERNETES): | bubblewrap # fails before the builds, which take long

# Injected Agents run bin/vault, also if VAULT names another server.
kubernetes: bubblewrap build $(SERVER) bin/vault bin/vault-plugin-auth-kubernetes $(KUBERNETES) | git ## Run the tests in a real Kubernetes cluster without nodes, with its operators.
	@$(E2E_ENV) KUBERNETES_BIN=$(abspath bin) go -C test test $(LIMIT) -vet=off -tags e2e,kubernetes -count=1 -parallel 8 -v -run '^TestKubernetes' ./e2e

.PHONY: screenshots
screenshots: export E2E_SCREENSHOTS := $(abspath docs/images)
screenshots: $(E2E_DEPS) ## Take the pictures of docs/consent.md with the browser of the tests.
	@$(E2E_ENV) go -C test test $(LIMIT) -vet=off -tags e2e -count=1 -run TestAPersonRefusesAndThenConsents ./e2e

# Each fault test appends a row with its result to this file. Those of ./faults have a process each: in one
# that runs for longer than about half an hour, the race detector itself can fail
# (`CHECK failed: tsan_rtl.cpp … kEpochLast`).
FAULTS := bin/faults.jsonl
faults: export FAULTS_LONG := 1
faults: export FAULTS_TALLY := $(abspath $(FAULTS))
faults: export SEED := $(SEED)
faults: $(E2E_DEPS) | gcc ## Run the long form of the fault tests and print a table of results (SEED=n sets the seed).
	@rm -f $(FAULTS); failed=0; \
	CGO_ENABLED=1 go test $(LIMIT) -race -count=1 -run '^TestFault' ./... || failed=1; \
	CGO_ENABLED=1 go -C test test $(LIMIT) -race -count=1 -run '^TestFault' $$(go -C test list ./... | grep -v '/faults$$') || failed=1; \
	for test in $$(go -C test test $(LIMIT) -list '^TestFault' ./faults | grep '^Test'); do \
		CGO_ENABLED=1 go -C test test $(LIMIT) -race -count=1 -run "^$$test\$$" ./faults || failed=1; done; \
	go -C test test $(LIMIT) -count=1 ./rotation || failed=1; \
	$(E2E_ENV) go -C test test $(LIMIT) -tags e2e -count=1 -run '^TestFault' ./e2e/... || failed=1; \
	go run ./internal/testing/tally/report $(FAULTS) || failed=1; \
	exit $$failed

# The short form of the fault matrices, without the race detector, which is too slow for them.
faults-short:
	go -C test test $(LIMIT) -vet=off -short -count=1 -run '^TestFault' ./faults

# BENCHFLAGS=-quick checks in a few minutes that the benchmark works, and writes no page. PEER=path adds the
# cached read of another engine.
bench: build $(SERVER) bin/yardstick bin/bench wrk ## Compare the engine with a plugin that does nothing, and update docs/performance.md.
	@echo 'comparing bin/$(PLUGIN) with bin/yardstick in $(SERVER)'
	@bin/bench -vault=$(SERVER) -engine=bin/$(PLUGIN) -yardstick=bin/yardstick \
		-json=bin/bench.json -docs=docs $(if $(PEER),-peer='$(PEER)') $(BENCHFLAGS)

# STORMFLAGS=-quick checks in two minutes that the benchmark works, and writes no page.
storm: build $(SERVER) bin/bench ## Measure what follows when the tokens of 1,000 credentials expire together, and update docs/capacity.md.
	@echo 'measuring bin/$(PLUGIN) in $(SERVER)'
	@bin/bench storm -vault=$(SERVER) -engine=bin/$(PLUGIN) -json=bin/storm.json -docs=docs $(STORMFLAGS)

# Built with the same flags as the plugin.
bin/yardstick: FORCE
	@echo 'building $@'
	@$(REPRODUCIBLE) go -C bench build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(abspath $@) ./yardstick

bin/bench: FORCE
	@echo 'building $@'
	@go -C bench build -o $(abspath $@) .

# bench/baseline.txt is only comparable with results from the machine that it names. Update
# it with UPDATE=1 in the commit of an intended change.
BASELINE := bench/baseline.txt
GOBENCH := go test $(LIMIT) -run '^$$' -bench . -count 6 -benchtime 200ms . ./internal/broker
benchstat: baseline bin/benchstat ## Compare the Go benchmarks with the stored baseline (UPDATE=1 replaces it).
	@$(GOBENCH) | tee bin/benchmarks.txt
	@if [ -n "$(UPDATE)" ]; then cp bin/benchmarks.txt $(BASELINE); else bin/benchstat $(BASELINE) bin/benchmarks.txt; fi

.PHONY: baseline
baseline:
	@[ -n "$(UPDATE)" ] || [ -e $(BASELINE) ] || \
		{ echo '$(BASELINE) does not exist: create it with "make benchstat UPDATE=1".' >&2; exit 1; }

bin/benchstat: tools/benchstat/go.mod tools/benchstat/go.sum
	@echo 'building $@'
	@go -C tools/benchstat build -o $(abspath $@) golang.org/x/perf/cmd/benchstat

docs: ## Generate docs/api.md, docs/vendors.md and docs/definitions.md.
	go test $(LIMIT) -count=1 -run 'TestTheAPIReferenceIsCurrent|TestTheCataloguePageIsCurrent|TestTheReferenceOfDefinitionsIsCurrent' . -args -write-docs

site: bin/hugo tools/site/node_modules/.package-lock.json | git ## Build the site of the documentation into bin/site (SITE=folder for another folder).
	@tools/site/build.sh $(SITE)

SITE := bin/site
site-test: site | chromium
	@SITE=$(abspath $(SITE)) go -C test test $(LIMIT) -vet=off -tags e2e -count=1 ./site

bin/hugo: tools/hugo/go.mod tools/hugo/go.sum
	@echo 'Building Hugo, for the site of the documentation (3 to 4 minutes with empty caches) …'
	@$(call build-tool,hugo,github.com/gohugoio/hugo)

# $(call build-tool,<folder>,<package>) builds the target from the module in a folder of tools/.
build-tool = $(TIMED) $@ go -C tools/$(1) build -ldflags '-s -w' -o $(abspath $@) $(2)

bin/tofu: tools/tofu/go.mod tools/tofu/go.sum
	@echo 'Building OpenTofu (3 to 4 minutes with empty caches) …'
	@$(call build-tool,tofu,github.com/opentofu/opentofu/cmd/tofu)

bin/terraform-provider-vault: tools/terraform-provider-vault/go.mod tools/terraform-provider-vault/go.sum
	@echo 'Building the Vault provider of Terraform (3 to 4 minutes with empty caches) …'
	@$(call build-tool,terraform-provider-vault,github.com/hashicorp/terraform-provider-vault)

# The pinned server is built without this auth method.
bin/vault-plugin-auth-kubernetes: tools/kubernetes-auth/go.mod tools/kubernetes-auth/go.sum
	@echo "Building Vault's auth method for Kubernetes (a minute with empty caches) …"
	@$(call build-tool,kubernetes-auth,github.com/hashicorp/vault-plugin-auth-kubernetes/cmd/vault-plugin-auth-kubernetes)

# GitLab Runner's way to read secrets, without the rest of it.
bin/gitlab-secret: tools/gitlab-secret/go.mod tools/gitlab-secret/go.sum tools/gitlab-secret/main.go
	@echo 'building $@'
	@$(call build-tool,gitlab-secret,.)

bin/kube-%: tools/kubernetes/go.mod tools/kubernetes/go.sum
	@echo 'Building $@ (5 minutes with empty caches) …'
	@$(call build-tool,kubernetes,k8s.io/kubernetes/cmd/kube-$*)

bin/kubectl: tools/kubernetes/go.mod tools/kubernetes/go.sum
	@echo 'Building $@ (a minute with empty caches) …'
	@$(call build-tool,kubernetes,k8s.io/kubernetes/cmd/kubectl)

bin/etcd: tools/etcd/go.mod tools/etcd/go.sum
	@echo 'Building $@ (a minute with empty caches) …'
	@$(call build-tool,etcd,go.etcd.io/etcd/server/v3)

bin/vault-secrets-operator: $(addprefix tools/vault-secrets-operator/,go.mod go.sum build.sh)
	@echo 'Building $@ (2 minutes with empty caches) …'
	@$(TIMED) $@ tools/vault-secrets-operator/build.sh $(abspath $@)

bin/external-secrets: tools/external-secrets/go.mod tools/external-secrets/go.sum
	@echo 'Building $@ (5 minutes with empty caches) …'
	@$(call build-tool,external-secrets,github.com/external-secrets/external-secrets)

bin/vault-k8s: tools/vault-k8s/go.mod tools/vault-k8s/go.sum
	@echo 'Building $@ (a minute with empty caches) …'
	@$(call build-tool,vault-k8s,github.com/hashicorp/vault-k8s)

# What the package.json of a folder names: oidc-provider for the tests, node-vault for the example of a
# client, and Mermaid for the diagrams of the site.
%/node_modules/.package-lock.json: %/package.json %/package-lock.json | npm
	@echo 'Installing the packages of $*/package.json (seconds) …'
	cd $* && npm ci

# The client library of Python, for the Python of the system.
.PHONY: hvac
hvac:
	@/usr/bin/python3 -c 'import hvac' 2>/dev/null || tools/packages/install.sh 'hvac (for Python)' python3-hvac

# The minimum version of Node.js, as in package.json.
NODE := 20.19
.PHONY: npm
npm:
	@command -v npm >/dev/null || tools/packages/install.sh 'npm (with Node.js)' nodejs npm
	@printf '%s\n' v$(NODE) "$$(node --version)" | sort -CV || \
		{ echo "Node.js $(NODE) or later is required, but $$(command -v node) is $$(node --version)."; \
		echo 'Install a later version (https://nodejs.org/en/download) and put it first in PATH.'; exit 1; } >&2

# Debian packages, by the names of their commands. The race detector needs gcc, the pages
# create keys with openssl, people consent in chromium, the benchmark generates load with wrk,
# buildah builds images without a daemon, fakeroot installs the release's package without root,
# prometheus includes promtool, and systemd checks the unit of an example.
PACKAGES := buildah chromium curl fakeroot gcc git jq openssl prometheus shellcheck systemd termtosvg wrk zip
packages: ## Install the Debian packages that the tests need.
	@missing=(); for command in $(filter-out gcc,$(PACKAGES)); do \
		command -v $$command >/dev/null || missing+=($$command); done; \
	if [ $${#missing[@]} -gt 0 ]; then tools/packages/install.sh "$${missing[*]}" "$${missing[@]}"; fi
	@$(MAKE) --no-print-directory gcc npm hvac

.PHONY: $(PACKAGES)
$(filter-out gcc,$(PACKAGES)):
	@command -v $@ >/dev/null || tools/packages/install.sh $@ $@

# The sandboxes of the cluster. Only its tests need them.
.PHONY: bubblewrap
bubblewrap:
	@command -v bwrap >/dev/null || tools/packages/install.sh 'bubblewrap (for sandboxes)' bubblewrap
	@bwrap --ro-bind / / true || \
		{ echo 'bubblewrap cannot create a sandbox: user namespaces are restricted. On Ubuntu 24.04 or later, run'; \
		echo '    sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0'; exit 1; } >&2

gcc:
	@echo '#include <stdlib.h>' | $$(go env CC) -E - >/dev/null 2>&1 || \
		tools/packages/install.sh 'A C compiler (for the race detector)' gcc libc6-dev

examples: | systemd ## Test the examples for Kubernetes, Helm and systemd.
	go -C test/examples test $(LIMIT) -vet=off -count=1 ./...

# The other modules of this repository that contain Go code.
MODULES := bench test test/examples test/dist tools/oci tools/dockerfile tools/gitlab-secret examples/clients

vet: ## Run go vet in all modules (golangci-lint, part of lint, does so too).
	go vet ./...
	@for module in $(MODULES); do (set -x; go -C $$module vet -tags e2e,kubernetes,dist ./...); done

lint: bin/golangci-lint bin/actionlint bin/dockerfile-lint bin/vale | git shellcheck ## Run the linters, and check formatting, go.mod and terms.
	tools/lint/run.sh . $(MODULES)
	bin/dockerfile-lint Dockerfile examples/kubernetes/server/Dockerfile
	bin/actionlint .github/workflows/*.yml examples/ci/github-actions.yml
	sed -n '/^```yaml file=/,/^```$$/{//!p}' docs/from-ci-secret.md | bin/actionlint -
	shellcheck $(wildcard tools/*/*.sh examples/*/*.sh)
	tools/vale/run.sh

bin/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@echo 'Building golangci-lint (a minute or two with empty caches) …'
	@$(call build-tool,lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

bin/cyclonedx-gomod: tools/sbom/go.mod tools/sbom/go.sum
	@echo 'building $@'
	@$(REPRODUCIBLE) go -C tools/sbom build -trimpath -buildvcs=false -ldflags '-s -w' \
		-o $(abspath $@) github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

bin/oci: tools/oci/go.mod tools/oci/go.sum tools/oci/main.go
	@echo 'building $@'
	@$(REPRODUCIBLE) go -C tools/oci build -o $(abspath $@) .

bin/licenses: tools/licenses/main.go
	@echo 'building $@'
	@$(REPRODUCIBLE) go build -o $@ ./tools/licenses

# Releases after 2.45 pull in modules for RPM and MSIX packages, which nothing here needs.
bin/nfpm: tools/nfpm/go.mod tools/nfpm/go.sum
	@echo 'building $@'
	@$(REPRODUCIBLE) go -C tools/nfpm build -trimpath -buildvcs=false -ldflags '-s -w' \
		-o $(abspath $@) github.com/goreleaser/nfpm/v2/cmd/nfpm

bin/actionlint: tools/actionlint/go.mod tools/actionlint/go.sum
	@echo 'building $@'
	@$(call build-tool,actionlint,github.com/rhysd/actionlint/cmd/actionlint)

bin/dockerfile-lint: tools/dockerfile/go.mod tools/dockerfile/go.sum tools/dockerfile/main.go
	@echo "Building BuildKit's checks of Dockerfiles (a minute or two with empty caches) …"
	@$(call build-tool,dockerfile,.)

# The parser of Go's comments is written in C.
bin/vale: tools/vale/go.mod tools/vale/go.sum | gcc
	@echo 'building $@'
	@$(TIMED) $@ env CGO_ENABLED=1 go -C tools/vale build -o $(abspath $@) github.com/errata-ai/vale/v3/cmd/vale

fmt: bin/golangci-lint ## Format the code.
	bin/golangci-lint fmt

clean: ## Remove all build output.
	rm -rf bin dist $(AUTHSERVER)/node_modules $(NODECLIENT)/node_modules tools/site/node_modules
