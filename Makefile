# Each target is one script. All of them install what the machine lacks, and all can be run again at any time.
.DEFAULT_GOAL := help
.PHONY: help demo test e2e-full unit world apiserver e2e bench lint image cluster-up cluster-down cluster-programs generate

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | column -t -s "$$(printf '\t')"
demo: ## a cluster, the operator and a secured etcd to try; CONTEXT=name IMAGE=ref: on a Kubernetes of yours
	@CONTEXT='$(CONTEXT)' IMAGE='$(IMAGE)' hack/demo
test: ## everything a change must pass, in order of cost
	@hack/test lint unit world apiserver e2e
e2e-full: ## the tests on a real Kubernetes, the long ones too
	@hack/test e2e-full
unit: ## the tests that need no Kubernetes
	@hack/test unit
world: ## simulated worlds; N=1000000: so many, SEED=n: that one, with all that happens in it
	@N='$(N)' SEED='$(SEED)' hack/test world
apiserver: ## the tests on a real API server
	@hack/test apiserver
e2e: ## the tests on a real Kubernetes
	@hack/test e2e
bench: ## how fast, how small and how quiet the operator is
	@hack/bench/run
lint: ## format, clippy, generated files, licences, scripts, chart
	@hack/test lint
image: ## target/image/etcd-warden.tar
	@hack/image
cluster-up: ## starts the one-node Kubernetes
	@hack/cluster/up
cluster-down: ## ends it
	@hack/cluster/down
cluster-programs: ## builds the programs it consists of
	@hack/cluster/build
generate: ## writes crds/ and the chart's copy
	@hack/generate
