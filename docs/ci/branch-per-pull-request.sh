#!/usr/bin/env bash
# A Lakebase branch for each pull request: copied from the base branch, migrated, tested, compared, and deleted when the
# pull request is closed. Works in any CI system that can run `lakebase`; see branches-in-ci.md.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
Usage: branch-per-pull-request.sh up NUMBER | down NUMBER | cleanup

up       creates the branch {PREFIX}{NUMBER} or extends it, migrates it, runs the tests, and writes the difference of the schemas to
         DIFF_FILE as Markdown
down     deletes it
cleanup  deletes branches of pull requests that were left behind

Reads LAKEBASE_ENDPOINT (any endpoint or branch of the project) and the variables by which the Databricks SDKs authenticate.
BASE_BRANCH        Lakebase branch to copy            [default: production]
BRANCH_TTL         when Lakebase deletes the copy     [default: 4h]
MIGRATE, TEST      commands, run by sh                [default: none]
KEEP_CREDENTIALS   1: the commands get the variables that authenticate at the workspace; for programs that log in
                   with the crates lakebase-*         [default: they are removed]
PREFIX             of the branches' names, with a dash at its end
                   [default: made of GITHUB_REPOSITORY, or else ci-pr-]
DIFF_FILE          [default: schema-difference.md]
TEXT
    exit 2
}

# Repositories that share a project need prefixes of their own. In a subshell, as the commands keep their locale.
default_prefix() (
    export LC_ALL=C
    if [ -z "${GITHUB_REPOSITORY:-}" ]; then
        echo ci-pr-
        exit
    fi
    name=$(printf %s "${GITHUB_REPOSITORY##*/}" | tr A-Z a-z | tr -c a-z0-9 - | cut -c 1-30)
    sum=$(printf %s "$GITHUB_REPOSITORY" | cksum | cut -d ' ' -f 1)
    echo "ci-$name-$sum-pr-"
)

is_prefix() (
    LC_ALL=C
    [[ $1 =~ ^[a-z][a-z0-9-]{1,50}-$ ]]
)

prefix=${PREFIX:-$(default_prefix)}
is_prefix "$prefix" || usage
base=${BASE_BRANCH:-production}

number() {
    case ${1:-} in
    '' | *[!0-9]*) usage ;;
    *) echo "$prefix$1" ;;
    esac
}

# Each connection of the command logs in to the branch through a proxy.
on_branch() {
    case ${KEEP_CREDENTIALS:-} in
    1) lakebase exec --branch "$1" -- sh -euc "$2" ;;
    *) lakebase exec --no-credentials --branch "$1" -- sh -euc "$2" ;;
    esac
}

case ${1:-} in
up)
    branch=$(number "${2:-}")
    lakebase branch create "$branch" --from "$base" --ttl "${BRANCH_TTL:-4h}" --if-not-exists
    if [ -n "${MIGRATE:-}" ]; then on_branch "$branch" "$MIGRATE"; fi
    if [ -n "${TEST:-}" ]; then on_branch "$branch" "$TEST"; fi
    lakebase branch diff "$base" "$branch" --markdown >"${DIFF_FILE:-schema-difference.md}"
    ;;
down)
    branch=$(number "${2:-}")
    lakebase branch delete "$branch" --purge --if-exists
    ;;
cleanup)
    lakebase branch cleanup --prefix "$prefix" --older-than 7d --purge --yes
    ;;
*) usage ;;
esac
