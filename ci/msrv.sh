#!/usr/bin/env bash
# The libraries and programs compile with the declared rust-version, if that toolchain is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
if ! toolchain=$(rustup toolchain list 2>/dev/null | grep -oE "^$version(\.[0-9]+)?-[^ ]+" | head -n 1); then
    echo "skipped: Rust $version is not installed (rustup toolchain install $version --profile minimal)"
    exit 0
fi
RUSTUP_TOOLCHAIN=$toolchain cargo check --locked --all-features \
    -p lakebase-core -p lakebase-diesel -p lakebase-seaorm -p lakebase-local -p lakebase-cli
