#!/usr/bin/env bash
# The quickstart, as root also as an ordinary user in an empty environment.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked --bin quickstart
if [ "$(id -u)" = 0 ] && command -v runuser >/dev/null; then
    echo "as an ordinary user"
    elsewhere=$(mktemp -d)
    trap 'rm -rf "$elsewhere"' EXIT
    cp target/debug/quickstart "$elsewhere"
    chmod -R a+rx "$elsewhere"
    runuser -u nobody -- env -i HOME=/nonexistent PATH="$PATH" "$elsewhere/quickstart"
fi
