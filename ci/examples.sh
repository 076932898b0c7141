#!/usr/bin/env bash
# The examples, on a local Lakebase: ours, older versions of the hosts, frameworks.
set -euo pipefail
cd "$(dirname "$0")/.."
for example in diesel_bb8 diesel_r2d2 seaorm_entities migrate_diesel migrate_seaorm rehearse sqlx_listener tokio_postgres_deadpool mobc_adapter telemetry; do
    cargo run --locked -q -p lakebase-examples --features r2d2 --bin "$example"
done

export CARGO_TARGET_DIR=target/older
for example in seaorm_1_1 diesel_2_2; do
    cargo run --locked -q --manifest-path examples/older/Cargo.toml --bin "$example"
done
for example in loco_0_16 loco_1_2 seaography deadpool_diesel; do
    cargo run --locked -q --manifest-path examples/frameworks/Cargo.toml --bin "$example"
done
