# The commands of this repository; `make` lists them. Each does all its own set-up, and each that builds leaves
# ./bin/holdfast pointing at what it built, unless it is told of another PROGRAM. Nobody links the library of
# tests/preload, so `--lib` names it where it is used.
#
# The build cache lies outside the checkout and survives it. The tests and the demo share one build: naming a test
# target lets cargo choose the same features for both, so that neither rebuilds what the other has built.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/holdfast/target
# Where rustup puts cargo, for a shell that was opened before rustup was run.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

target := $(abspath $(CARGO_TARGET_DIR))
nextest := $(shell command -v cargo-nextest 2>/dev/null)
deny := $(shell command -v cargo-deny 2>/dev/null)
# The bans of clippy.toml do not bind what only tests.
only_tests := --exclude holdfast-simulator --exclude holdfast-tests --exclude holdfast-sim --exclude holdfast-benches

.DEFAULT_GOAL := help
.PHONY: help demo test prove prove-mutants sim bench race flame build release image compose-test deb
.PHONY: check check-format check-lints check-arrows check-docs test-deps clean setup

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: build ## three nodes, a simulated plant and local receivers; break them with k, p, c (ARGS="--drill" for the scripted run)
	@./bin/holdfast demo $(ARGS)

test: setup ## everything that must hold: units, store, replication, whole clusters
	cargo build --locked --workspace --lib --bins --tests
	@$(call link,debug)
ifneq ($(nextest),)
	cargo nextest run --locked --workspace $(if $(filter true,$(CI)),--profile ci) $(ARGS)
else
	cargo test --locked --workspace --lib --bins --no-fail-fast
	RUST_TEST_THREADS=1 cargo test --locked --workspace --test '*' --no-fail-fast
endif
	cargo test --locked --workspace --doc --quiet

# Which runs the proof kit makes, and what decides everything that is left to chance in them.
PROFILE ?= quick
SEED ?= 1

# The program that is broken, if it is not the one that is built here: `make release && make prove PROGRAM=bin/holdfast`.
PROGRAM ?=

prove: setup ## break real clusters and judge them from outside, as root (PROFILE=quick|nightly|release SEED=1; PROGRAM=bin/holdfast; DO="replay DIR")
	cargo build --locked --workspace --lib --bins --test architecture
	@$(if $(PROGRAM),:,$(call link,debug))
	@"$(target)/debug/prove" $(or $(DO),profile $(PROFILE) --seed $(SEED)) $(if $(PROGRAM),--program "$(PROGRAM)") $(ARGS)

# Everything is built otherwise, into a folder of its own: but for RocksDB, which has no mutants and is taken from where the
# tests have built it, if they have.
prove-mutants: export CARGO_TARGET_DIR := $(target)/mutants
prove-mutants: export RUSTFLAGS := $(RUSTFLAGS) --cfg mutants
prove-mutants: setup ## each deliberate fault in the code is noticed by the test that must notice it (ARGS="--only NAME")
	@archive=$$(ls -t "$(target)"/debug/build/librocksdb-sys-*/out/librocksdb.a 2>/dev/null | head -n 1); \
	if [ -n "$$archive" ]; then export ROCKSDB_LIB_DIR="$${archive%/*}" ROCKSDB_STATIC=1; fi; \
	cargo build --locked --workspace --lib --bins --tests && "$(target)/mutants/debug/prove" mutants $(ARGS)
# Its own build, beside the ordinary one: only so does tokio choose by the seed, and a seed repeats to the last event.
sim: setup ## simulated clusters, one for each seed (SEEDS=1000, ARGS="--seed 7 --events" for one of them, ARGS="--twice", ARGS="--limit 60" for their seconds)
	CARGO_TARGET_DIR="$(target)/sim" RUSTFLAGS="--cfg tokio_unstable" \
	  cargo run --locked --package holdfast-sim -- $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

bench: release ## the figures of docs/performance.md, in an optimised build (ARGS="--quick", ARGS="failover --kills 10")
	@"$(target)/release/holdfast-benches" $(ARGS)

# Python packages are in an environment of their own, which nothing else looks into.
race: export PATH := $(PATH):$(target)/race/thingsboard-gateway/bin
race: release ## beside NATS JetStream, etcd and thingsboard-gateway, which it installs (ARGS="--quick", messages, polling)
	@scripts/peers "$(target)/race/thingsboard-gateway"
	@"$(target)/release/holdfast-benches" race $(ARGS)

flame: release ## where the nodes' time goes while a bench runs, as a flame graph (ARGS="push --seconds 60 --runs 1", FOR=20)
	@scripts/flame "$(target)" $(ARGS)

# By package: what simulations ask of tokio (a clock that can be paused) has no place in a plant.
release: setup ## the program, optimised, as boxes in a plant run it
	cargo build --locked --release --package holdfast --package holdfast-benches
	@$(call link,release)

image: ## the container image holdfast:local, built whole, or of BINARY=FILE (BUILD_IMAGE=, RUNTIME_IMAGE= name other bases)
	@scripts/image

compose-test: ## the cluster of compose.yaml, each node killed in turn, and the account; needs a container engine (BINARY=, RUNTIME_IMAGE=)
	@scripts/compose-test

deb: setup ## the Debian package
	@command -v cargo-deb >/dev/null || { echo "cargo-deb is missing: cargo install --locked cargo-deb" >&2; exit 2; }
	$(MAKE) release
	cargo deb --package holdfast --no-build

build: setup ## the program, as the tests and the demo use it
	cargo build --locked --workspace --bin holdfast --test architecture
	@$(call link,debug)

check: check-format check-lints check-arrows check-docs ## format, lints, licences, arrows between crates, documentation

check-format: setup ## rustfmt has nothing to change
	cargo fmt --all --check

check-lints: setup ## clippy has nothing to say
	cargo clippy --locked --workspace --all-targets -- -D warnings -A clippy::disallowed_methods
	cargo clippy --locked --workspace $(only_tests) --lib --bins -- -D warnings

check-arrows: build ## arrows between crates, licences and sources of what they stand on
	cargo test --locked --workspace --test architecture --quiet
ifneq ($(deny),)
	cargo deny --locked check licenses bans sources
endif

check-docs: setup ## rustdoc without a warning; every page and link that is named exists
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --workspace --no-deps --document-private-items
	cargo test --locked --workspace --test documents --quiet

test-deps: setup ## what builds and tests need: packages of the system, then the sources of all crates
	cargo fetch --locked --target "$$(rustc -vV | sed -n 's/^host: //p')"

clean: ## remove ./bin and the build cache (the next build takes long)
	rm -rf bin
	cargo clean

# As set-up for these, it looks for what they need, too.
test test-deps: purpose := tests
race: purpose := race
flame: purpose := flame
# And for these, for what makes networks and volumes.
prove prove-mutants: purpose := proof
setup:
	@scripts/setup $(purpose)

define link
mkdir -p bin && ln -sfn "$(target)/$(1)/holdfast" bin/holdfast
endef
