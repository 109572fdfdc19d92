# SPDX-License-Identifier: GPL-2.0
#
# Everything is built in a Debian root of its own (scripts/toolchain) and kept in a cache (~/.cache/vremote, or VREMOTE_CACHE).

.DEFAULT_GOAL := help
.PHONY: help demo test test-debug long check fuzz simulate mutants soak bench bench-moves loads modules kernel tools install clean

# Variables that the scripts take from make's command line as well as from the environment.
export KDIR KERNEL_TARBALL VREMOTE_CACHE VREMOTE_GUEST_PACKAGES VREMOTE_KVM JOBS DESTDIR PREFIX FUZZ_SECONDS SEEDS
# An empty variable must not hide a script's default.
unexport $(foreach v,KDIR KERNEL_TARBALL VREMOTE_CACHE VREMOTE_GUEST_PACKAGES VREMOTE_KVM JOBS DESTDIR PREFIX FUZZ_SECONDS SEEDS,$(if $($(v)),,$(v)))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  KDIR=DIR                your own patched and built kernel tree, for kernel, modules, install, test"
	@echo "  KERNEL_TARBALL=FILE     another 7.3.y source than Debian's"
	@echo "  VREMOTE_CACHE=DIR       where toolchain, kernels and guest images are kept"
	@echo "  SEEDS=N                 how many schedules simulate runs"
	@echo "  MUTANTS=WORDS           only mutants whose name has one of the words"
	@echo "  MINUTES=N               how long soak takes; SOAK_OPTIONS=--debug for the debug kernel"
	@echo "  LONG_TESTS=WORDS        for long: only tests whose name has one of the words"
	@echo "  BENCH_OPTIONS=WORDS     for bench: --rounds 15, --only read,write, --sharers (see its head)"
	@echo "  scripts/cluster help    the cluster of emulated machines, by hand"

demo: ## two machines share a file before your eyes; builds what is missing
	@scripts/demo

test: kernel ## all tests: check, and the guest tests in emulated machines
	@scripts/selftest

test-debug: ## the guest tests on a kernel with KASAN, lockdep and kmemleak
	@scripts/selftest --debug

long: kernel ## guest tests that can run for hours, as long as they take; LONG_TESTS="34 97": only these
	@scripts/long $(LONG_TESTS)

check: ## the quick part: format, clippy, unit, property and model tests
	@scripts/selftest --check

fuzz: ## random packets against the parser and the protocol, 10 minutes
	@scripts/fuzz

simulate: ## 3 to 8 nodes in one process, through failures: 10,000 schedules (SEEDS), each repeated by its seed
	@scripts/simulate

mutants: kernel ## takes away what the module does on failures, piece by piece: each time a test must fail
	@scripts/mutants $(MUTANTS)

soak: kernel ## four nodes exercise one file for MINUTES (60), with random seeds and faults
	@scripts/soak $(SOAK_OPTIONS) $(MINUTES)

bench: kernel ## ext4, NFSv4.2, NFS over TLS, VRemote, iperf3, UDP echo side by side: build/bench/results.md
	@scripts/bench $(BENCH_OPTIONS)

bench-moves: kernel tools ## moves and forks, beside dump + scp + restore: build/bench/moves.json
	@scripts/bench-moves

loads: kernel ## public load generators that verify, on ext4, NFSv4.2 and VRemote: build/loads/table.md
	@scripts/loads

kernel: ## the patched kernel of the guests; prints its tree
	@scripts/kernel

modules: ## build/vremote.ko
	@scripts/modules

tools: ## build/tools
	@scripts/tools

install: ## module and tools onto this machine (DESTDIR=, PREFIX=, and KDIR= for the module)
	@scripts/install

clean: ## remove build/; the cache stays
	@! [ -d build/cluster ] || for c in build/cluster/*/; do VREMOTE_CLUSTER=$$(basename "$$c") scripts/cluster down --force >/dev/null 2>&1 || true; done
	rm -rf build
