# Kebernetes. `make help` lists what there is.
SHELL := /bin/sh
GO ?= go
export CGO_ENABLED := 0

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## install what the build and the tests need (Debian packages)
	@missing=; for p in gcc libc6-dev libseccomp-dev pkg-config busybox-static nftables openssl curl; do \
		dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if ! dpkg -s postgresql >/dev/null 2>&1; then \
		mkdir -p /etc/postgresql-common/createcluster.d && \
		echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/keb.conf && \
		missing="$$missing postgresql"; fi; \
	if [ -n "$$missing" ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; fi

.PHONY: bundle
bundle: tools ## build the executables that keb ships (containerd, runc, kubectl)
	$(GO) run ./bundle/build

.PHONY: build
build: bundle ## build bin/keb
	$(GO) build -trimpath -ldflags '-s -w' -o bin/keb ./cmd/keb

.PHONY: images
images: build ## build the images of the examples and tests
	$(GO) build -trimpath -ldflags '-s -w' -o bin/ ./examples/hello ./examples/fetch ./examples/load ./examples/shop
	$(GO) run ./examples/mkimage -o bin/hello.tar -name keb.local/hello:1 -entrypoint /hello hello=bin/hello
	$(GO) run ./examples/mkimage -o bin/busybox.tar -name keb.local/busybox:1 -env PATH=/bin tmp/ bin/fetch=bin/fetch bin/busybox=/bin/busybox \
		$$(/bin/busybox --list | grep -v '^busybox$$' | sed 's#.*#bin/&@busybox#')
	$(GO) run ./examples/mkimage -o bin/shop.tar -name keb.local/shop:1 -entrypoint /shop shop=bin/shop
	./examples/shop/database/image.sh bin/postgres.tar

.PHONY: run
run: images ## start a cluster on this machine and deploy examples/hello
	./examples/hello/run.sh

.PHONY: shop
shop: images ## start a cluster of three nodes on this machine and deploy examples/shop
	./examples/shop/run.sh

.PHONY: test
test: images ## run all tests, the real ones included, and count them
	$(GO) run ./testrun ./...

.PHONY: churn
churn: images ## make, change and delete workloads on three nodes for MINUTES (30), and count what is left
	KEB_CHURN_MINUTES=$(or $(MINUTES),30) $(GO) test -tags churn -count 1 -run 'TestChurn$$' -v -parallel 3 -timeout 24h ./realnode

.PHONY: fuzz
fuzz: ## run each fuzz target for a minute
	$(GO) run ./testrun -fuzz 1m ./...

.PHONY: clean
clean: ## remove what the build made
	rm -rf bin bundle/assets/*.zst bundle/assets/.*.stamp
