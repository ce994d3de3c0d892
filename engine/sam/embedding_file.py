"""Embeddings as bytes, so that they are made once and kept beside the images: safetensors, float16.

An embedding that was read back differs from the fresh one by its rounding; use what was read back
wherever answers are to be the same again.
"""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from engine.sam.segmenter import Embedding


def write_embedding(embedding: Embedding) -> bytes:
    """The bytes of an embedding."""
    features = embedding.features_1CHW.detach().to("cpu", torch.float16).contiguous()
    sizes = {"original_size": embedding.original_size, "input_size": embedding.input_size}
    return save({"features": features}, metadata={"sizes": json.dumps(sizes)})


def read_embedding(data: bytes, device: str = "cpu") -> Embedding:
    """What `write_embedding` wrote, float32 on `device`.

    Raises:
        ValueError: the bytes are nothing of the kind.
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
