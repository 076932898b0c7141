#!/usr/bin/env bash
# Texts, comments and test names are plain English: none of the expressions in ci/words.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
found=0
while IFS= read -r line; do
    pattern=$(sed -E 's/ +-> .*//' <<<"$line")
    instead=${line#* -> }
    allowed=(':!ci/words.*')
    if [[ $instead == *' allowed: '* ]]; then
        for file in ${instead#* allowed: }; do allowed+=(":!$file"); done
        instead=${instead% allowed: *}
    fi
    # In names of tests, underscores join the words.
    name=${pattern// /_}
    if git grep -nE -e "$pattern" -e "${name//'\b'/(\b|_)}" -- '*.rs' '*.md' '*.sh' '*.toml' '*.sql' '*.yml' "${allowed[@]}"; then
        echo "  instead of '$pattern' write: $instead"
        found=1
    fi
done < <(grep -v '^#' ci/words.txt)
exit "$found"
