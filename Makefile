# What people and CI call. `make demo` and `make test` install what they need.

# An explicit target keeps these flags away from build scripts and macros. A
# static PIE relocates itself; packed, its table is 160 kB smaller.
RELEASE_FLAGS := -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# Another one than the host's is linked by Debian's cross compiler for it.
TARGET ?= $(HOST)
ARM64 := aarch64-unknown-linux-gnu
PROCESSOR := $(firstword $(subst -, ,$(TARGET)))
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CARGO_TARGET := CARGO_TARGET_$(shell echo $(TARGET) | tr a-z- A-Z_)
LINKER := $(if $(filter $(HOST),$(TARGET)),,$(CARGO_TARGET)_LINKER=$(PROCESSOR)-linux-gnu-gcc)
OUT := build$(if $(filter $(HOST),$(TARGET)),,/$(PROCESSOR))
PLYWOOD := $(OUT)/plywood
# The manual and the completions, with what only they depend on.
PACKAGING := --manifest-path packaging/Cargo.toml
BENCHES := --manifest-path benches/Cargo.toml
# In bytes.
MAX_SIZE := 6291456
CARGO_DENY_VERSION := 0.20.2
DEMO_ASSETS := kernel-6.1 root-busybox
CARGO_FUZZ_VERSION := 0.13.2
# For each target.
FUZZ_SECONDS ?= 300
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

PACKAGES := gcc gcc-12 g++ libc6-dev ca-certificates python3 \
	qemu-system-x86 ovmf systemd-boot-efi binutils busybox-static mmdebstrap cpio kmod openssl xz-utils zstd strace \
	util-linux systemd \
	docker-registry skopeo umoci apache2-utils bash-completion fish zsh mandoc man-db \
	squashfs-tools squashfs-tools-ng squashfuse 7zip cryptsetup-bin e2fsprogs xfsprogs btrfs-progs dosfstools fdisk iproute2

# What another processor than the host's needs beside these.
ARM64_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm

# What `make bench` needs beyond a compiler: the peers, and a registry.
BENCH_PACKAGES := gcc g++ libc6-dev ca-certificates python3 docker-registry \
	skopeo umoci squashfs-tools squashfs-tools-ng containerd pigz util-linux mount
# gvisor firmware kmods manysmall set12 memory choices boot; empty: all.
BENCH ?=
ROUNDS ?= 3
# Power cuts.
N ?= 1000

# Prerequisites in their order, with -j too: deps before what needs them.
.NOTPARALLEL:
.PHONY: help deps build build-arm64 deb check test test-arm64 powercut matrix fuzz assets bench bench-deps demo demo-shell clean

help:
	@echo 'make deps        install what building and testing need (Debian 12; asks apt only for what is missing)'
	@echo 'make build       the static binary, $(PLYWOOD)'
	@echo 'make build-arm64 the same for arm64, build/aarch64/plywood; then make deb TARGET=$(ARM64), too'
	@echo 'make deb         build/plywood_VERSION_ARCHITECTURE.deb: hooks, units, manual pages and completions too'
	@echo 'make check       format, lints, unit tests, licences'
	@echo 'make test        all tests, the ones in virtual machines too'
	@echo 'make powercut    cut the power of booting and applying machines N=1000 times; SEED= for the same times again,'
	@echo '                 FILESYSTEM=xfs or btrfs for another state volume than ext4'
	@echo 'make test-arm64  boot an arm64 machine, emulated; needs build-arm64, which it runs'
	@echo 'make matrix      distributions with every kernel, firmware and initramfs; takes long'
	@echo 'make fuzz        search for inputs that break something, FUZZ_SECONDS=300 a target'
	@echo 'make bench       time and memory beside other ways to a squashfs; BENCH="gvisor boot" ROUNDS=1 for a part'
	@echo 'make demo        boot a virtual machine with an extension and show what came of it'
	@echo 'make demo-shell  the same, and stay in a shell there'

deps:
	@sh qemu-tests/assets/deps.sh $(PACKAGES)

build:
	$(CARGO_TARGET)_RUSTFLAGS='$(RELEASE_FLAGS)' $(LINKER) cargo build --release --locked --target $(TARGET)
	@mkdir -p $(OUT)
	@install -m 0755 $(TARGET_DIR)/$(TARGET)/release/plywood $(PLYWOOD)
	@size=$$(wc -c <$(PLYWOOD)); \
	echo "$(PLYWOOD): $$size bytes, $$(grep -c '^name = ' Cargo.lock) packages in Cargo.lock"; \
	if [ $$size -gt $(MAX_SIZE) ]; then echo "error: $(PLYWOOD) is larger than $(MAX_SIZE) bytes" >&2; exit 1; fi

build-arm64:
	@sh qemu-tests/assets/deps.sh $(ARM64_PACKAGES)
	rustup target add $(ARM64)
	@$(MAKE) build TARGET=$(ARM64)

deb: build
	@packaging/deb $(PLYWOOD) build

build/tools/bin/cargo-deny:
	cargo install --locked --root build/tools --version $(CARGO_DENY_VERSION) cargo-deny

check: build/tools/bin/cargo-deny
	cargo fmt --all --check
	cargo fmt $(PACKAGING) --check
	cargo fmt $(BENCHES) --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(TARGET_DIR) cargo clippy --locked $(PACKAGING) --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(TARGET_DIR) cargo clippy --locked $(BENCHES) --all-targets -- -D warnings
	@for package in fuzz benches/krata; do \
		cargo metadata --locked --format-version 1 --manifest-path $$package/Cargo.toml >/dev/null || exit 1; \
	done
	cargo test --locked --lib --bins --test layout --test cli --test interrupted
	CARGO_TARGET_DIR=$(TARGET_DIR) cargo test --locked $(PACKAGING) --bins
	build/tools/bin/cargo-deny --locked check licenses bans sources
	build/tools/bin/cargo-deny --locked $(PACKAGING) --config deny.toml check licenses bans sources

assets: build
	@qemu-tests/assets/make

# Making the assets leaves a core idle, and what needs no machine mostly waits:
# so each goes on beside something else, with its own account at the end.
test: deps build
	@cargo test --locked --workspace --no-run & compiling=$$!; qemu-tests/assets/make && wait $$compiling
	@cargo test --locked --package qemu-tests --no-fail-fast >build/machines.log 2>&1 & machines=$$!; status=0; \
	cargo test --locked --no-fail-fast || status=$$?; \
	CARGO_TARGET_DIR=$(TARGET_DIR) cargo test --locked $(PACKAGING) || status=$$?; \
	CARGO_TARGET_DIR=$(TARGET_DIR) cargo test --locked --manifest-path benches/krata/Cargo.toml || status=$$?; \
	echo 'Tests in virtual machines:'; \
	wait $$machines || status=$$?; cat build/machines.log; exit $$status

test-arm64: deps assets build-arm64
	cargo test --locked --package qemu-tests --test arm64 --test binary -- --include-ignored

matrix: test-arm64
	cargo test --locked --package qemu-tests --test distros --test packages -- --include-ignored

powercut: deps assets
	CUTS=$(N) $(if $(SEED),SEED=$(SEED)) $(if $(FILESYSTEM),FILESYSTEM=$(FILESYSTEM)) cargo test --locked -p qemu-tests --test powercut -- --nocapture

build/tools/bin/cargo-fuzz:
	cargo install --locked --root build/tools --version $(CARGO_FUZZ_VERSION) cargo-fuzz

# Sanitizers need flags that a stable compiler takes only with RUSTC_BOOTSTRAP.
# New inputs go to fuzz/found, what breaks a target to fuzz/artifacts.
fuzz: deps build/tools/bin/cargo-fuzz
	@set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/found/$$target; \
		RUSTC_BOOTSTRAP=1 build/tools/bin/cargo-fuzz fuzz run --fuzz-dir fuzz $$target \
			fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1; \
	done

bench-deps:
	@sh qemu-tests/assets/deps.sh $(BENCH_PACKAGES)

# Mounting, and so BENCH=boot and BENCH=choices, needs root.
bench: bench-deps build
	@set -e; for package in benches benches/krata; do \
		cargo build --release --locked --manifest-path $$package/Cargo.toml --target-dir build/bench/target; \
	done
	@ROUNDS=$(ROUNDS) benches/run $(BENCH)

demo: deps build
	@qemu-tests/assets/make $(DEMO_ASSETS)
	@sh qemu-tests/demo

demo-shell: deps build
	@qemu-tests/assets/make $(DEMO_ASSETS)
	@sh qemu-tests/demo --shell

clean:
	rm -rf build
	cargo clean
