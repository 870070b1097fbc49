# `make help` lists what there is to do.

VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null)
GOFUMPT    := go run mvdan.cc/gofumpt@v0.12.0
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Tests that need heavy modules, kept out of the go.mod of the product.
SYSTEMTEST := internal/systemtest

.PHONY: help
help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

.PHONY: build
build: ## Build bin/helloapi
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.release=$(VERSION)' -o bin/helloapi ./cmd/helloapi

.PHONY: run
run: build ## Build and serve on SQLite; needs nothing but Go
	@bin/helloapi serve

.PHONY: test
test: ## Run every test, with the race detector, on a real PostgreSQL and Redis
	@# One package at a time: some tests are of what happens within a second.
	internal/backendtest/with-servers sh -ec 'for module in . $(SYSTEMTEST); do (cd $$module && go build -race ./... && go test -race -p 1 -timeout 10m ./...); done'

.PHONY: fuzz
fuzz: ## Run each fuzz target for 20 seconds
	@set -e; for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' internal | xargs -n1 dirname | sort -u); do \
		for target in $$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z]+' $$pkg | cut -c6-); do \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime 20s ./$$pkg; \
		done; \
	done

.PHONY: lint
lint: ## Check format (gofumpt), go vet, staticcheck, and that go.mod is tidy
	@unformatted=$$($(GOFUMPT) -l cmd internal migrations); test -z "$$unformatted" || { echo "not formatted; run make fmt: $$unformatted"; exit 1; }
	@set -e; for module in . $(SYSTEMTEST); do \
		(cd $$module && set -x && go vet ./... && $(STATICCHECK) ./... && go mod tidy -diff); \
	done

.PHONY: fmt
fmt: ## Format the code
	$(GOFUMPT) -w cmd internal migrations
