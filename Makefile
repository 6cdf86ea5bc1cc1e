# Weft. `make help` lists the targets.
#
# Only Go, git, make and Debian packages are needed; `deps.sh` checks for the
# packages a target wants and, as root on a machine with apt, installs them.

GO := $(shell command -v go || echo /usr/local/go/bin/go)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/weftnet/weft/internal/api.Version=$(VERSION)
# -buildvcs=false: `sudo make` in a user's clone must not trip over git's ownership check.
BUILD := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)'

export PATH := $(dir $(GO)):$(PATH):/usr/sbin:/sbin
export GOFLAGS += -buildvcs=false

# Names of the images; the manifest has these.
REGISTRY ?= ghcr.io/weftnet
TAG ?= $(shell sed -n 's/^appVersion: //p' deploy/chart/Chart.yaml)

RUN ?= .
FUZZTIME ?= 60s

.DEFAULT_GOAL := help
.PHONY: help build image manifest demo test browser e2e e2e-full verify lint generate bench soak fuzz clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

build: ## build weft-cni, weftd and weft into bin/
	@mkdir -p bin
	$(BUILD) -o bin/ ./cmd/weft-cni ./cmd/weftd ./cmd/weft

image: ## write the images of Weft and of the example to bin/*-image.tar; REGISTRY=…, TAG=…
	@./deps.sh image
	@$(MAKE) --no-print-directory build
	$(BUILD) -o bin/example ./examples
	$(GO) run ./deploy/mkimage -name $(REGISTRY)/weft:$(TAG) -out bin/weft-image.tar weft
	$(GO) run ./deploy/mkimage -name $(REGISTRY)/example:$(TAG) -out bin/example-image.tar example

manifest: ## make deploy/weft.yaml and the chart's schema from the chart
	$(GO) run ./deploy/mkmanifest

demo: ## (root) three nodes, a few pods, one story; KEEP=1 leaves it up, DOWN=1 takes it down
	@./deps.sh demo
	@$(MAKE) --no-print-directory build
	$(GO) run ./e2e/demo $(if $(KEEP),--keep) $(if $(DOWN),--clean)

# Runs a command, and repeats at the end what failed: between are the logs of daemons.
tested = mkdir -p dist && rm -f dist/test.code && { $(1); echo $$? >dist/test.code; } 2>&1 | tee dist/test.log; code=1; read -r code <dist/test.code; \
	[ "$$code" = 0 ] || { echo "What failed:"; grep -E '^ *--- FAIL:|^ +[A-Za-z0-9_]+_test\.go:[0-9]+:|^(FAIL|panic)' dist/test.log | grep -v ': log of '; exit "$${code:-1}"; }

test: ## (root) everything CI runs: lint, generated files, unit, packet, namespace and crash tests, then e2e
	@./deps.sh test
	@$(MAKE) --no-print-directory lint verify
	@$(call tested,$(GO) test -race -timeout 20m ./internal/reconcile ./internal/api ./ipam ./daemon/source/...)
	@$(call tested,$(GO) test -timeout 30m $$($(GO) list ./... | grep -v /e2e))
	@$(call tested,$(GO) test -timeout 20m -tags weft_crash -run 'Killed|Hold' ./daemon/endpoint ./internal/crash)
	cd deploy/charttest && $(GO) vet ./... && $(GO) test ./...
	@$(call tested,$(GO) test -timeout 60m $$($(GO) list ./e2e/... | grep -v /e2e/page))
	$(GO) test -timeout 5m ./e2e/page
	@$(MAKE) --no-print-directory e2e

# A program that is run by its own name gets the signals that make gets.
E2E := mkdir -p bin && CGO_ENABLED=0 $(GO) build -o bin/weft-e2e ./e2e/kind/run && exec bin/weft-e2e -out dist/e2e

e2e: ## (root) a kind cluster from nothing, and upstream's conformance tests and a third of its policies' on it
	@./deps.sh e2e
	@$(MAKE) --no-print-directory image
	@$(E2E) $(E2E_FLAGS)

e2e-full: ## (root) the same for dual-stack, IPv4-only and IPv6-only, and from outside, with all upstream tests that need no cloud
	@./deps.sh e2e
	@$(MAKE) --no-print-directory image
	@$(E2E) -full $(E2E_FLAGS)

lint: ## gofmt, go vet (also with test tags), staticcheck, clang-format
	@./deps.sh generate
	@fmt=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$fmt" ] || { echo "not gofmt-ed: $$fmt"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags weft_crash ./...
	$(GO) tool staticcheck ./...
	clang-format-19 --dry-run --Werror $$(git ls-files 'bpf/src/*.[ch]')

generate: ## re-make the BPF bindings and objects with clang-19
	@./deps.sh generate
	$(GO) generate ./bpf/...

verify: generate ## fail when the committed BPF objects are not what the sources make
	@git diff --exit-code --stat -- bpf || { echo "bpf: generated files differ from the committed ones; commit the output of 'make generate'"; exit 1; }

bench: ## (root) ratios to limits and peers, one interleaved run; RUN=regexp, BENCH_OUT=file
	@./deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./e2e/bench -run '$(RUN)' $(if $(BENCH_OUT),-out '$(BENCH_OUT)')

browser: ## (root) the page of weft web in Chromium, 30 s; SHOTS=folder keeps pictures (docs has two)
	@./deps.sh browser
	$(if $(SHOTS),WEFT_SCREENSHOTS='$(abspath $(SHOTS))') $(GO) test -timeout 5m -count=1 -v ./e2e/page

soak: ## (root) the long forms of the crash tests (10,000 injections), of the floods (2,000,000 half-open flows), of pods that start under policy (1,000), of nodes that die (30), and of all nodes one after the other
	@./deps.sh test
	WEFT_SOAK=1 $(GO) test -timeout 12h -v -run 'Flood' ./bpf
	WEFT_SOAK=1 $(GO) test -timeout 12h -v -run 'Crash|Refill|Flood|NoPacketBeforePolicy|DeathOfTheAnnouncingNode|RollOfAllNodes' ./e2e

fuzz: ## each fuzz target for FUZZTIME (60s)
	@set -e; for pkg in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$pkg/*_test.go | cut -c6-); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; done; done

clean: ## remove bin/
	rm -rf bin
