#!/bin/sh
# Prints the digest of every image that others have made, for compose.yaml and the Dockerfile: a tag can be moved to
# another image, a digest cannot. Needs docker with buildx, and the registries:
#
#   sh infra/digests.sh > infra/digests.env
#   docker compose --env-file infra/digests.env -f infra/compose.yaml up --build --detach
#
# Kubernetes' images are yours: `kustomize edit set image open-data-engine=REGISTRY/open-data-engine@sha256:...`.
set -eu
cd "$(dirname "$0")"
python=$(sed -n 's/^ARG PYTHON=//p' Dockerfile)
tags=$(sed -n 's/^ *image: *\(.*\)\${\([A-Z]*_DIGEST\):-}$/\2 \1/p' compose.yaml)
printf '%s\nPYTHON_DIGEST python:%s-slim-bookworm\n' "$tags" "$python" | while read -r name image; do
    digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
    case $digest in sha256:*) ;; *) echo "no digest of $image: $digest" >&2; exit 1 ;; esac
    echo "$name=@$digest"
done
