#!/usr/bin/env bash
# A minute of queries by all ORMs during random faults.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked -p lakebase-tests --bin soak -- --seconds 60 --seed 1
