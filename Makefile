# Everything is set up on the way, in .venv; `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two steps of the set-up may call apt-get, which takes a lock.
.NOTPARALLEL:

# The Python to build .venv with: 3.11 or later.
export PYTHON ?= python3
# What the tests call, as command:Debian-package.
TOOLS := ip:iproute2 curl:curl nft:nftables zsh:zsh fish:fish groff:groff-base systemd-analyze:systemd \
         unshare:util-linux nsenter:util-linux setpriv:util-linux mount:mount ping:iputils-ping
# What the benchmark measures with, and the relays that it measures beside ours, likewise.
LOAD := iperf3:iperf3 wrk:wrk sockperf:sockperf nginx:libnginx-mod-stream
# And those of the tunnels: a kernel of its own, with its own tunnel drivers, and a dissector.
PEERS := linux.uml:user-mode-linux modprobe:kmod tshark:tshark isatapd:isatapd radvd:radvd \
         haproxy:haproxy socat:socat 6tunnel:6tunnel rinetd:rinetd systemd-socket-activate:systemd
FUZZ_EXAMPLES := 200000

BIN := .venv/bin
# Where the tests find portproxy as the wheel installs it. PYTHONSAFEPATH keeps the working directory, which is
# the checkout, from coming first.
WHEEL := .venv/wheel
# The set-up's stamp. It holds the checkout's path: one that has moved is set up anew.
READY := .venv/ready
ifneq ($(CURDIR),$(shell cat $(READY) 2>/dev/null))
.PHONY: $(READY)
endif

.PHONY: help run test bench fuzz tools peers clean

help: ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

run: $(READY) ## Show the relay at work: an IPv4-only service, reached over IPv6.
	@$(BIN)/portproxy demo

# Types take a core for half a minute, which tests leave them: many of those wait for something.
test: $(READY) tools peers ## Run linters, types and all tests, these on the installed wheel.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	tests/tools/setup wheel $(WHEEL)
	$(BIN)/mypy >.venv/types & types=$$!; \
	PYTHONSAFEPATH=1 $(WHEEL)/bin/python -m pytest --numprocesses 2 --dist worksteal; \
	wait $$types || { cat .venv/types; exit 1; }

bench: $(READY) peers ## Measure speed beside HAProxy, nginx and others, into benchmarks/results.
	@tests/tools/setup tools $(LOAD)
	$(BIN)/python -m benchmarks

# Longer than a test may take, and not the same examples every time.
fuzz: $(READY) ## Run the fuzz targets long.
	@tests/tools/setup fuzz
	PORTPROXY_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/pytest --timeout=0 tests/fuzz
	$(BIN)/python -m tests.fuzz.run_atheris $(FUZZ_EXAMPLES)

clean: ## Remove .venv and every cache.
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml tests/constraints.txt tests/tools/setup
	@tests/tools/setup venv $@

tools:
	@tests/tools/setup tools $(TOOLS) $(LOAD)

# A peer that cannot be had is left out of the benchmark, which says so.
peers:
	-@tests/tools/setup tools $(PEERS)
