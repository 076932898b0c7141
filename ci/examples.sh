#!/usr/bin/env bash
# The examples, on a local Lakebase: ours, older versions of the hosts, frameworks.
set -euo pipefail
cd "$(dirname "$0")/.."
for example in diesel_bb8 diesel_r2d2 seaorm_entities migrate_diesel rehearse sqlx_listener tokio_postgres_deadpool mobc_adapter telemetry; do
    cargo run --locked -q -p lakebase-examples --features r2d2 --bin "$example"
done

# Packages of their own, on one local Lakebase. The test of `branch-test` runs in tests.sh. No cargo runs inside of a program that
# cargo started: cargo sets variables such as CARGO_PKG_NAME there, and ring's build script depends on them, so ring and all that
# depends on it can be built again.
cargo build --locked -q -p lakebase-examples -p report --features lakebase-examples/r2d2 --bin report
cargo build --locked -q --bin lakebase --bin api --bin migration --bin service
target=$(cargo metadata --locked --no-deps --format-version 1 | grep -oP '"target_directory":"\K[^"]+')
# Runs a program ($3..) until it prints a line that begins with $1, then the command $2 with the rest of the line, and ends the
# program with SIGTERM.
with() {
    local begin=$1 command=$2 line= output pid status=0
    shift 2
    exec {output}< <(exec "$@")
    pid=$!
    while read -r -t 60 line <&"$output" && [[ $line != "$begin"* ]]; do :; done
    if [[ $line == "$begin"* ]]; then
        "$command" "${line#"$begin"}" || status=$?
    else
        echo "$*: no line begins with: $begin"
        status=1
    fi
    kill "$pid" && wait "$pid" || status=$?
    exec {output}<&-
    return "$status"
}
notes() {
    curl -sSf -H 'content-type: application/json' -d '{"text": "milk"}' "$1/notes" | grep milk
    curl -sSf "$1/notes" | grep milk
    curl -sSf "$1/health"
}
programs() {
    lakebase exec psql -qf examples/programs/report/orders.sql
    report --top 1 | grep Edsger
    migration | grep 'rehearsal: 2 ran'
    service add 'one two three'
    with 'document 1 has 3 words' true service
    DATABRICKS_APP_PORT=0 with 'listening on ' notes api
}
export -f with notes programs
PATH="$target/debug:$PATH" LAKEBASE_SCHEMA=app lakebase local -- bash -euo pipefail -c programs

export CARGO_TARGET_DIR=target/older
for example in seaorm_1_1 diesel_2_2; do
    cargo run --locked -q --manifest-path examples/older/Cargo.toml --bin "$example"
done
for example in loco_0_16 loco_1_2 seaography deadpool_diesel; do
    cargo run --locked -q --manifest-path examples/frameworks/Cargo.toml --bin "$example"
done
