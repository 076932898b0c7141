#!/bin/sh
# Installs the official clients and drivers of other languages beside this script, for the tests that run them. With the
# argument `appkit`, it also installs AppKit, which is 400 MB.
set -eu
cd "$(dirname "$0")"
if command -v npm >/dev/null 2>&1; then
    set -- ${1:+--ignore-scripts @databricks/$1@0.38.1}
    npm install --silent --no-save --no-package-lock --no-audit --no-fund @databricks/lakebase@0.6 pg@8 "$@"
else
    echo "npm is missing: the Node driver will be skipped"
fi
if command -v python3 >/dev/null 2>&1 && python3 -m venv venv 2>/dev/null; then
    rm -f venv/complete
    # Without the bridge's machine-learning dependencies, which its database part does not import.
    venv/bin/pip install --quiet --disable-pip-version-check --no-deps \
        databricks-sdk==0.162.0 databricks-ai-bridge==0.22.0
    venv/bin/pip install --quiet --disable-pip-version-check \
        requests google-auth protobuf 'psycopg[binary]==3.3.*' psycopg_pool 'SQLAlchemy==2.1.*'
    touch venv/complete
else
    echo "python3 with venv is missing: the Python clients will be skipped"
fi
