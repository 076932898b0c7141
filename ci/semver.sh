#!/usr/bin/env bash
# cargo-semver-checks against the version on crates.io, once there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo info --quiet --registry crates-io lakebase-core >/dev/null 2>&1; then
    echo "skipped: no version of lakebase-core is on crates.io (or it cannot be reached)"
elif ! command -v cargo-semver-checks >/dev/null; then
    echo "skipped: cargo-semver-checks is not installed (cargo install --locked cargo-semver-checks)"
else
    cargo semver-checks -p lakebase-core -p lakebase-diesel -p lakebase-seaorm -p lakebase-local
fi
