#!/usr/bin/env bash
# Clippy without warnings: everything (tests and benches included), and each feature alone.
set -euo pipefail
cd "$(dirname "$0")/.."
check() { cargo clippy --locked "$@" -- -D warnings; }

check --workspace --all-targets --all-features
for crate in lakebase-core lakebase-diesel lakebase-seaorm lakebase-local lakebase-cli; do
    check -p "$crate" --no-default-features
done
for feature in admin opentelemetry proxy tokio-postgres; do
    check -p lakebase-core --no-default-features --features "$feature"
done
for feature in async bb8 deadpool migrations opentelemetry r2d2; do
    check -p lakebase-diesel --no-default-features --features "$feature"
done
for feature in migrations opentelemetry; do
    check -p lakebase-seaorm --no-default-features --features "$feature"
done
