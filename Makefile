# `make help` lists what there is to do.

VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null)
GOFUMPT    := go run mvdan.cc/gofumpt@v0.12.0
# The bill of materials of a binary, read from the binary itself.
SBOM       := go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0 bin -json -std -licenses -noserial -notimestamp
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
COMPOSE    := $(if $(shell docker compose version 2>/dev/null),docker compose,docker-compose)
DOCKER     := docker
IMAGE      := helloapi
# Base images of your own: --build-arg GO_IMAGE=… --build-arg RUNTIME_IMAGE=…
IMAGE_ARGS :=
# Tests that need heavy modules, kept out of the go.mod of the product.
SYSTEMTEST := internal/systemtest
# What make deploy applies: a folder in deploy/kubernetes/overlays.
OVERLAY    := local

.PHONY: help
help: ## List the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

.PHONY: build
build: ## Build bin/helloapi
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.release=$(VERSION)' -o bin/helloapi ./cmd/helloapi

.PHONY: run
run: build ## Build and serve on SQLite; needs nothing but Go
	@HELLOAPI_COMMAND=bin/helloapi bin/helloapi serve

.PHONY: install
install: ## Build and install helloapi where go install does (GOBIN, or ~/go/bin), and its manual page
	CGO_ENABLED=0 go install -trimpath -ldflags '-s -w -X main.release=$(VERSION)' ./cmd/helloapi
	@dir=$$(go env GOBIN); dir=$${dir:-$$(go env GOPATH)/bin}; echo "installed $$dir/helloapi"; \
		man=$$(dirname "$$dir")/share/man/man1; { mkdir -p "$$man" && "$$dir/helloapi" man >"$$man/helloapi.1"; } 2>/dev/null && echo "installed $$man/helloapi.1"; \
		case ":$$PATH:" in *":$$dir:"*) ;; *) echo "$$dir is not in PATH: export PATH=\"$$dir:\$$PATH\"" ;; esac

.PHONY: release
release: ## Build the binaries of a tag, with checksums and bills of materials, in dist/
	@test -z "$$(git status --porcelain)" && git describe --tags --exact-match >/dev/null 2>&1 || { echo "a release is of what is committed and tagged: git tag v1.2.3"; exit 1; }
	rm -rf dist && mkdir dist
	set -e; for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
		export CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/}; file=dist/helloapi_$(VERSION)_$${GOOS}_$$GOARCH; \
		go build -trimpath -buildvcs=false -ldflags '-s -w -X main.release=$(VERSION)' -o $$file ./cmd/helloapi; \
		(unset GOOS GOARCH; $(SBOM) -version $(VERSION) -output $$file.sbom.json $$file); \
	done
	cp LICENSE dist
	cd dist && $$(command -v sha256sum || echo shasum -a 256) * >SHA256SUMS

.PHONY: image
image: ## Build the container image
	DOCKER_BUILDKIT=1 $(DOCKER) build $(IMAGE_ARGS) --build-arg VERSION=$(VERSION) -t $(IMAGE) .

.PHONY: up
up: image ## Start all of docker-compose.yml: a balancer, replicas, PostgreSQL, Redis
	$(COMPOSE) up -d
	@$(COMPOSE) logs --no-color plans
	@echo; echo "The API is on http://$$($(COMPOSE) port balancer 8080 | sed 's/^0[.]0[.]0[.]0:/localhost:/')"

.PHONY: upgrade
upgrade: image ## Migrate and replace the replicas one by one, by this version; fails no request
	$(COMPOSE) run --rm migrate
	COMPOSE='$(COMPOSE)' deploy/compose/roll

.PHONY: logs
logs: ## Follow the logs of docker-compose.yml
	$(COMPOSE) logs -f --tail=100

.PHONY: down
down: ## Stop docker-compose.yml; the data stays
	$(COMPOSE) --profile observability down --remove-orphans

.PHONY: destroy
destroy: ## Remove docker-compose.yml and ITS DATA: keys, counts, usage
	@read -p "This removes all keys, counts and usage for good. Type destroy to go on: " answer; test "$$answer" = destroy || { echo "nothing was removed"; exit 1; }
	$(COMPOSE) --profile observability down --remove-orphans --volumes

.PHONY: test
test: ## Run every test, with the race detector, on a real PostgreSQL and Redis
	@# One package at a time: some tests are of what happens within a second.
	internal/backendtest/with-servers sh -ec 'for module in . $(SYSTEMTEST); do (cd $$module && go build -race ./... && go test -race -p 1 -timeout 20m ./...); done'

.PHONY: attack
attack: ## Attack a server of 256 MiB with slow and many clients, about 15 minutes (in a container if Docker is there)
	cd $(SYSTEMTEST) && go run ./attack

.PHONY: test-long
test-long: ## Run the tests of outages with their long cases too
	internal/backendtest/with-servers go test -race -tags long -count=1 -run TestRedisOutage -v ./cmd/helloapi

.PHONY: e2e
e2e: ## Try docker-compose.yml as a whole under load, with stand-ins for third-party images (needs Docker)
	deploy/e2e/images
	cd $(SYSTEMTEST) && go test -tags e2e -count=1 -timeout 15m -v ./e2e

.PHONY: deploy
deploy: ## Bring the cluster of kubectl to OVERLAY (local), and wait until it serves
	deploy/kubernetes/deploy deploy/kubernetes/overlays/$(OVERLAY)

.PHONY: e2e-kubernetes
e2e-kubernetes: ## Try overlays/local on the cluster of kubectl, which must have its images
	cd $(SYSTEMTEST) && go test -tags e2e -count=1 -timeout 40m -v -run TestCluster ./kubernetes

.PHONY: screenshots
screenshots: ## Take the pictures of the README from the running program (needs Chromium); ALL=DIR: one of each state, to look at
	cd $(SYSTEMTEST) && go run ./browser/screenshots $(if $(ALL),$(abspath $(ALL)))

.PHONY: bench
bench: ## Measure beside a bare handler, a naive version and pgbench, in 8 minutes; BENCH=short: in one
	DURABLE=1 internal/backendtest/with-servers go run ./internal/bench $(if $(filter short,$(BENCH)),-short)

.PHONY: pgo
pgo: ## Take the profile that go build optimises by, under the load of make bench
	DURABLE=1 internal/backendtest/with-servers go run ./internal/bench -profile cmd/helloapi/default.pgo

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
		(cd $$module && set -x && go vet -tags e2e,long ./... && $(STATICCHECK) -tags e2e ./... && go mod tidy -diff); \
	done

.PHONY: fmt
fmt: ## Format the code
	$(GOFUMPT) -w cmd internal migrations
