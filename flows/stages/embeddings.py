"""Computes image embeddings before people work on a run's images."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from engine.annotation.embeddings import embedding_key, make_embedding
from flows.stages.run_context import RunContext
from flows.workspace import costs, progress
from flows.workspace.workspace import Workspace
from storage.formats.images import BadImageError


def make_embeddings(workspace: Workspace, context: RunContext, image_ids: Collection[int]) -> None:
    """Compute the embeddings of a run's images, so that the first click on each is fast. Skips
    broken images; the worker that leases their task quarantines them."""
    segmenter = workspace.segmenter(context.model)
    images = workspace.catalog.images.get_many(list(image_ids))
    with (
        costs.spending(workspace, context.run_id),
        progress.current().track("embeddings", len(image_ids), "image") as advance,
    ):
        for image in images:
            key = embedding_key(context.model, image.id)
            if not workspace.objects.exists(key):
                with contextlib.suppress(BadImageError):
                    make_embedding(workspace.objects, segmenter, key, workspace.pixels(image))
            advance()
