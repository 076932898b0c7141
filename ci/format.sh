#!/usr/bin/env bash
# Formatting, also of the workspaces with older versions and frameworks.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo fmt --check --manifest-path examples/older/Cargo.toml
cargo fmt --check --manifest-path examples/frameworks/Cargo.toml
