#!/bin/sh
# Makes up the secrets that compose.yaml reads, once, in infra/secrets/. Nobody else can enter that folder; the files
# themselves are readable, because the containers' users are others than you.
set -eu
umask 077
folder="$(dirname "$0")/secrets"
mkdir -p "$folder"
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
write() { if [ ! -e "$folder/$1" ]; then printf '%s' "$2" > "$folder/$1"; chmod 0444 "$folder/$1"; fi; }
for name in postgres_password catalog_password prefect_password; do write "$name" "$(random)"; done
write database_url "postgresql+psycopg://dataengine:$(cat "$folder/catalog_password")@postgres/dataengine"
write prefect_database_url "postgresql+asyncpg://prefect:$(cat "$folder/prefect_password")@postgres/prefect"
write prefect_auth "dataengine:$(random)"
write s3_access_key "$(random)"
write s3_secret_key "$(random)"
write metrics_token "$(random)"
