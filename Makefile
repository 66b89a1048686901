# The two commands that most people want: make demo, make test.
# Needs Go and make; scripts/setup.sh gets the rest on Debian and Ubuntu.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO ?= go

# The same commit, Go and C compiler give the same bytes: no paths of the
# builder and no time stamps. The version is Go's own, from git; git refuses a
# repository of another user, and then there is none.
VCS        := $(shell git status --porcelain >/dev/null 2>&1 && echo true || echo false)
BUILDFLAGS := -trimpath -buildvcs=$(VCS) -ldflags '-s -w'

# Tests are linked without what only debuggers want, and without vet, which is
# part of lint.
FASTER := -vet=off -ldflags='-s -w'

QUICK     ?=
SUITE     ?=
BENCH_OUT ?=
TESTFLAGS ?=

.PHONY: build test race kube-tools demo bench lint fmt-check tidy-check clean help

## build: bin/exhibit, and bin/exhibit-verify without C or anything dynamic
build:
	@scripts/setup.sh build
	$(GO) build $(BUILDFLAGS) -o bin/exhibit ./cmd/exhibit
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o bin/exhibit-verify ./cmd/exhibit-verify

## test: everything, against real servers that the tests start themselves
test:
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory kube-tools
	$(GO) test -timeout 60m $(FASTER) $(TESTFLAGS) ./...

## race: the same under the race detector, without the slowest tests and without e2e, whose programs are built without it
race:
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory kube-tools
	$(GO) test -race -short -timeout 40m $(FASTER) $(TESTFLAGS) $$($(GO) list ./... | grep -v /e2e$$)

## kube-tools: the API server of Kubernetes, kubectl, kwok and Helm for the tests, built once into a cache outside the repository
kube-tools:
	@scripts/tool.sh kubernetes >/dev/null
	@scripts/tool.sh kwok >/dev/null
	@scripts/tool.sh helm >/dev/null

## demo: a server, a gateway, two agents, a pack and its verification, in one go
demo: build
	bin/exhibit demo

## bench: Exhibit beside its peers, for each protocol (SUITE=HTTP: one of them; QUICK=1: few short rounds; BENCH_OUT=file: JSON)
bench: build
	@scripts/setup.sh bench
	$(GO) build -trimpath -o bin/bench ./bench
	bin/bench -caddy "$$(scripts/tool.sh caddy || true)" -mcp "$$(scripts/tool.sh mcp-clients || true)" $(if $(QUICK),-quick) $(if $(SUITE),-suite '$(SUITE)') $(if $(BENCH_OUT),-out '$(BENCH_OUT)')

## lint: gofmt, vet and golangci-lint
lint: fmt-check
	$(GO) vet ./...
	"$$(scripts/tool.sh golangci-lint)" run ./...

fmt-check:
	@files=$$(gofmt -l .); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi

## tidy-check: go.mod and go.sum are what go mod tidy would write
tidy-check:
	$(GO) mod tidy -diff

clean:
	rm -rf bin

help:
	@sed -n 's/^## //p' Makefile
