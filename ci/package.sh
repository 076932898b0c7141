#!/usr/bin/env bash
# Packs the published crates into target/package and checks what is in them. Arguments go to `cargo package`:
# `--no-verify` packs without a build, `--allow-dirty` packs what is not committed.
set -euo pipefail
cd "$(dirname "$0")/.."

largest=500000
crates=(lakebase-core lakebase-diesel lakebase-seaorm lakebase-local lakebase-cli)
allowed='^(\.cargo_vcs_info\.json|Cargo\.lock|Cargo\.toml(\.orig)?|(CHANGELOG|README)\.md|LICENSE-(APACHE|MIT)|src/.+\.(rs|sql))$'
failed=0
report() { echo "$crate: $*" >&2; failed=1; }

rm -rf target/package
# All at once: cargo orders them, and resolves each one's needs among the others without a registry.
cargo package --locked --target-dir target "${crates[@]/#/--package=}" "$@"

for crate in "${crates[@]}"; do
    packed=$(echo target/package/"$crate"-[0-9]*.crate)
    top=$(basename "$packed" .crate)
    files=$(tar -tzf "$packed" | sed "s|^$top/||")

    size=$(wc -c <"$packed")
    [ "$size" -lt "$largest" ] || report "$size bytes, at most $largest"

    other=$(grep -vE "$allowed" <<<"$files") && report "must not be packed:" $other

    # Links to the files of the workspace, which must arrive as their contents.
    for license in LICENSE-APACHE LICENSE-MIT; do
        tar -xzOf "$packed" "$top/$license" | cmp - "$license" || report "$license is not the workspace's"
    done
    for file in README.md CHANGELOG.md; do
        [ -n "$(tar -xzOf "$packed" "$top/$file")" ] || report "$file is missing or empty"
    done

    # Registries show a README alone: no files beside it, and none of rustdoc's links.
    readme=$(tar -xzOf "$packed" "$top/README.md")
    relative=$(grep -oE '\]\([^)]*\)' <<<"$readme" | grep -vE '^\]\((https://|#)') && report "README.md: relative links" $relative
    for link in $(grep -oE '\[`[^]`]+`\]($|[^(])' <<<"$readme" | grep -oE '\[.*\]' | sort -u); do
        grep -qF -- "$link: https://" <<<"$readme" || report "README.md: $link has no address"
    done
done
exit "$failed"
