#!/usr/bin/env bash
# A minute of random messages through the auth proxy.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked -p lakebase-tests --bin fuzz_proxy -- --seconds 60 --seed 1
