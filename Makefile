# Each target is one script. All of them install missing packages, and all can be run again at any time.
.DEFAULT_GOAL := help
.PHONY: help demo test e2e-full unit world apiserver e2e bench lint image cluster-up cluster-down cluster-programs generate

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | column -t -s "$$(printf '\t')"
demo: ## a Kubernetes, the operator and a secured etcd to try; CONTEXT=name IMAGE=ref: on your own Kubernetes
	@CONTEXT='$(CONTEXT)' IMAGE='$(IMAGE)' hack/demo
test: ## everything a change must pass, in order of cost
	@hack/test lint unit world apiserver e2e
e2e-full: ## all tests on a real Kubernetes, including the long ones
	@hack/test e2e-full
unit: ## the tests that need no Kubernetes
	@hack/test unit
world: ## simulated worlds; N=1000000: this number of them, SEED=n: only that one, with its full log
	@N='$(N)' SEED='$(SEED)' hack/test world
apiserver: ## the tests on a real API server
	@hack/test apiserver
e2e: ## the tests on a real Kubernetes
	@hack/test e2e
bench: ## measures speed, memory and requests of the operator
	@hack/bench/run
lint: ## format, clippy, generated files, licences, scripts, chart
	@hack/test lint
image: ## target/image/etcd-warden.tar
	@hack/image
cluster-up: ## starts the one-node Kubernetes
	@hack/cluster/up
cluster-down: ## stops it
	@hack/cluster/down
cluster-programs: ## builds its programs
	@hack/cluster/build
generate: ## writes crds/, the chart's copy, and the table of fields in docs/reference.md
	@hack/generate
