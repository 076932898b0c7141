#!/usr/bin/env bash
# All tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/optional.sh
cargo test --workspace --locked
