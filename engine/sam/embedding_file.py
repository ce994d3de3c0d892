"""Embeddings as bytes: safetensors, float16.

An embedding that was written and read differs from the original by rounding. To get identical
predictions later, predict with the embedding that was read.
"""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from engine.sam.segmenter import Embedding


def write_embedding(embedding: Embedding) -> bytes:
    """Return an embedding as bytes."""
    features = embedding.features_1CHW.detach().to("cpu", torch.float16).contiguous()
    sizes = {"original_size": embedding.original_size, "input_size": embedding.input_size}
    return save({"features": features}, metadata={"sizes": json.dumps(sizes)})


def read_embedding(data: bytes, device: str = "cpu") -> Embedding:
    """Inverse of `write_embedding`: float32 on `device`.

    Raises:
        ValueError: the bytes are not an embedding.
    """
    try:
        features = load(data)["features"]
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        sizes = json.loads(header["__metadata__"]["sizes"])
        original, given = sizes["original_size"], sizes["input_size"]
        return Embedding(
            features.to(device, torch.float32),
            (int(original[0]), int(original[1])),
            (int(given[0]), int(given[1])),
        )
    except (SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"not an embedding: {error!r}") from error
