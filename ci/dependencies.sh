#!/usr/bin/env bash
# One TLS stack and one crypto provider, a small default tree, no dependency that nothing uses.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=$(cargo tree --workspace -e normal --prefix none --locked)
if grep -E '^(openssl-sys|native-tls|aws-lc-rs|aws-lc-sys) ' <<<"$tree"; then
    echo "a second TLS stack or crypto provider came in"
    exit 1
fi

packages=$(cargo tree -e normal --prefix none -p lakebase-core --locked | sort -u | wc -l)
echo "the default tree of lakebase-core has $packages packages"
[ "$packages" -le 150 ]

ci/unused_dependencies.py
