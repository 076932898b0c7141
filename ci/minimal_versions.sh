#!/usr/bin/env bash
# The libraries compile with the oldest direct dependencies that their manifests allow. In a copy with a lock file of its own;
# dependencies of dependencies are the newest, so a release elsewhere can fail this, and .ci/run leaves it out.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/minimal}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$copy"
cd "$copy"
# The other members would raise the versions. diesel 2.2 is for the feature `r2d2` alone (examples/older uses it): with all
# features, diesel-async needs 2.3.
sed -i -e '/^members = \[/,/^\]/c members = ["lakebase-core", "lakebase-diesel", "lakebase-seaorm"]' \
    -e '/^default-members = \[/,/^\]/d' \
    -e 's/^exclude = .*/exclude = ["examples", "lakebase-cli", "lakebase-local", "tests"]/' \
    -e 's/^diesel = { version = ">=2\.2,/diesel = { version = ">=2.3.9,/' Cargo.toml
# Cargo's option is unstable; the compiler's are the usual ones.
RUSTC_BOOTSTRAP=1 cargo update -Z direct-minimal-versions
cargo check --all-features -p lakebase-core -p lakebase-diesel -p lakebase-seaorm
