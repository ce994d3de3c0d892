"""Reads image embeddings from the object store, or computes them."""

from __future__ import annotations

import numpy as np

from engine.annotation.embeddings import embedding_key
from engine.sam.embedding_file import read_embedding, write_embedding
from engine.sam.segmenter import Embedding
from flows.workspace.workspace import Workspace
from storage.catalog import Image
from storage.objects import ObjectNotFoundError


def embedding_of(
    workspace: Workspace, segmenter: str, image: Image, pixels_HWC: np.ndarray | None = None
) -> Embedding:
    """Return an image's stored embedding of a model version; else compute one, rounded as a stored
    one would be.

    Args:
        workspace: the workspace.
        segmenter: the version.
        image: the image.
        pixels_HWC: RGB uint8, if they are read already.

    Raises:
        BadImageError: there is no embedding, and the image cannot be read.
    """
    try:
        return read_embedding(workspace.objects.get(embedding_key(segmenter, image.id)))
    except ObjectNotFoundError:
        pixels = workspace.pixels(image) if pixels_HWC is None else pixels_HWC
        return read_embedding(write_embedding(workspace.segmenter(segmenter).embed(pixels)))
