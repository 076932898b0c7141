#!/usr/bin/env bash
# Counts the instructions of one read of the held credential in a debug build, and fails if they are too many.
set -euo pipefail
cd "$(dirname "$0")/.."

# Rust 1.95 takes 2190. 10 % are for other compilers; raise it with a reason.
most=2400

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "skipped: the limit is for Linux on x86-64"
    exit 0
fi
if ! command -v valgrind >/dev/null; then
    echo "skipped: valgrind is not installed"
    exit 0
fi

# Of the whole program with that many reads.
instructions() {
    local output
    if ! output=$(cargo run --locked -q -p lakebase-tests --bin instructions \
        --config "target.'cfg(unix)'.runner = ['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null']" \
        -- "$1" 2>&1); then
        echo "$output" >&2
        return 1
    fi
    sed -n 's/.*Collected : //p' <<<"$output"
}

few=$(instructions 1000)
many=$(instructions 6000)
each=$(((many - few) / 5000))
echo "$each instructions for each read, at most $most"
[ "$each" -gt 0 ] && [ "$each" -le "$most" ]
