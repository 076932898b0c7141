#!/usr/bin/env bash
# cargo-deny: bans, licences and sources (deny.toml), and advisories if their database can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked --root target/tools cargo-deny@0.20.2
checks=(bans licenses sources)
if command -v git >/dev/null && timeout 20 git ls-remote -q https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
    checks+=(advisories)
else
    echo "advisories: skipped, their database cannot be reached"
fi
target/tools/bin/cargo-deny --locked check --hide-inclusion-graph "${checks[@]}"
