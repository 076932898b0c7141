#!/usr/bin/env bash
# The renewals of a small fleet of processes, on virtual time.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked -p lakebase-tests --bin fleet -- --processes 500 --hours 9 --users 20 --seed 1
