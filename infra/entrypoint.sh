#!/bin/sh
# Runs a command with secrets from files: DATAENGINE_X_FILE=/run/secrets/x becomes DATAENGINE_X with what the file
# holds, and so do PREFECT_* variables. A value that is set already stays.
set -eu
umask 077 # what is written is for this user only
for name in $(env | sed -n 's/^\(\(DATAENGINE\|PREFECT\)_[A-Z0-9_]*\)_FILE=.*/\1/p'); do
    eval "path=\${${name}_FILE}"
    eval "known=\${${name}:-}"
    if [ -z "$known" ]; then
        if [ ! -r "$path" ]; then
            echo "${name}_FILE: $path cannot be read" >&2
            exit 78
        fi
        known=$(cat "$path")
        export "$name=$known"
    fi
    unset "${name}_FILE"
done
exec "$@"
