#!/bin/sh
# Looks the packages of requirements.lock up among known vulnerabilities: in a copy of an advisory database where one is
# given, else by pip-audit at PyPI. For `make audit`:
#
#   sh infra/audit.sh PYTHON PIP-AUDIT [COPY]
set -eu
python=$1 pip_audit=$2 copy=${3:-}
cd "$(dirname "$0")/.."
if [ -n "$copy" ]; then exec "$python" -m tests.security.advisories requirements.lock "$copy"; fi
api=https://pypi.org/pypi/$(sed -n '1s/==/\//p' requirements.lock)/json
if ! why=$("$python" -c "
import sys, urllib.request
try:
    urllib.request.urlopen('$api', timeout=20).close()
except OSError as error:
    sys.exit(str(error))" 2>&1); then
    cat >&2 << END
PyPI's advisories cannot be had from here ($api: $why): nothing was audited.
A mirror of packages mostly lacks this part of PyPI. Give a copy of the advisories instead, brought from where they can
be had:

    git clone --depth 1 https://github.com/pypa/advisory-database
    make audit ADVISORIES=advisory-database/vulns

or OSV's https://storage.googleapis.com/osv-vulnerabilities/PyPI/all.zip, as ADVISORIES=all.zip
END
    exit 1
fi
"$pip_audit" --strict --disable-pip --no-deps --requirement requirements.lock || {
    echo "vulnerable packages, or not all could be looked up: see above" >&2
    exit 1
}
