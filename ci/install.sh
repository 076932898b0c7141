#!/usr/bin/env bash
# Installs what a bare machine lacks. Programs that only some tests need may be missing: these tests report that.
set -euo pipefail
cd "$(dirname "$0")/.."

have_postgres() {
    local dir
    for dir in "$(pg_config --bindir 2>/dev/null || true)" /usr/lib/postgresql/*/bin; do
        if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then return 0; fi
    done
    return 1
}

# As root or through sudo.
privileged() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# For synchronous diesel.
have_libpq() { [ -e "$(pg_config --includedir 2>/dev/null)/libpq-fe.h" ]; }

export DEBIAN_FRONTEND=noninteractive

if ! have_postgres || ! have_libpq || ! command -v cc >/dev/null; then
    echo "a Postgres server, libpq and a C compiler"
    # The programs only: the distribution must not set up a server.
    privileged mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | privileged tee /etc/postgresql-common/createcluster.conf >/dev/null
    privileged apt-get update -qq
    privileged apt-get install -y -qq postgresql libpq-dev gcc libc6-dev >/dev/null
fi

# For the checks of this folder.
if ! command -v python3 >/dev/null; then
    echo "python3"
    privileged apt-get update -qq
    privileged apt-get install -y -qq --no-install-recommends python3 >/dev/null
fi

# One by one: not every distribution has all of them.
updated=
while read -r program package; do
    if command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ]; then continue; fi
    echo "$package"
    if [ -z "$updated" ]; then
        privileged apt-get update -qq || true
        updated=1
    fi
    privileged apt-get install -y -qq --no-install-recommends "$package" </dev/null >/dev/null || echo "not installed"
done <<'PROGRAMS'
chromium chromium
chromedriver chromium-driver
pgbouncer pgbouncer
curl curl
valgrind valgrind
PROGRAMS

echo "the official clients"
tests/clients/install.sh || echo "not installed"

echo "the ORMs' command-line tools"
lakebase-cli/tests/tools/install.sh || echo "not installed"

echo "Postgres 17"
. ci/optional.sh
tests/postgres/install.sh "$postgres_17" || echo "not installed"
