#!/bin/sh
# Have a Chromium for the tests of the annotation page: the system's, else one from its packages,
# else Playwright's own.
set -eu
export DEBIAN_FRONTEND=noninteractive
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" > /dev/null; then exit 0; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get install -qy chromium > /dev/null 2>&1 && exit 0
    apt-get update -qq && apt-get install -qy chromium > /dev/null && exit 0
fi
"$1" -m playwright install chromium || echo "no browser could be had: the tests of the page are skipped" >&2
