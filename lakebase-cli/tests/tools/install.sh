#!/bin/sh
# Installs the command-line tools of the ORMs below the target folder, for the tests that run them. Once:
# what is there already stays.
set -eu
cd "$(dirname "$0")/../../.."
root=${LAKEBASE_TOOLS:-target/tools}
# Speed of the build is what counts here, not that of the tools.
export CARGO_PROFILE_DEV_DEBUG=0
install() {
    cargo install --quiet --debug --locked --root "$root" "$@"
}
install diesel_cli --version '^2.3' --no-default-features --features postgres
install sea-orm-cli --version '^2.0' --no-default-features \
    --features cli,codegen,runtime-tokio-rustls,sqlx-postgres
