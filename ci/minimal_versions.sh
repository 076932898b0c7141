#!/usr/bin/env bash
# The libraries compile with the oldest direct dependencies that their manifests allow. In a copy of the sources, with a
# lock file of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/minimal}
cd "$copy"
# The option is unstable; nothing else is.
RUSTC_BOOTSTRAP=1 cargo update -Z direct-minimal-versions
cargo check --all-features -p lakebase-core -p lakebase-diesel -p lakebase-seaorm
