"""A small CLIP, trained on pictures of `tests.labelled_shapes` in about a minute of one core."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from engine.semantics.clip import fresh_clip, save_clip
from engine.semantics.contrastive import Pair, TowersConfig, on_one_thread, train_towers
from engine.semantics.crops import SCALES, cut_crops
from engine.semantics.encoders import MaskEncoder
from tests.labelled_shapes import Picture, draw_picture

CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
    },
}
"""4.5 million parameters, 3.2 of them the vocabulary's."""

PICTURES = 400
"""To learn from: seeds 0 to 399."""

STEPS = 800
HELD_OUT = 100_000
"""First seed of pictures that it does not learn from."""


def pairs_of(pictures: Iterable[Picture], side: int) -> list[Pair]:
    """Return a close crop, one with context, and a masked one of each object, with its captions."""
    pairs = []
    for picture in pictures:
        rles = [thing.rle for thing in picture.things]
        close, wide = (cut_crops(picture.image_HWC, rles, scale, side) for scale in SCALES)
        seen = (close.pixels_NSSC, wide.pixels_NSSC, close.masked())
        for index, thing in enumerate(picture.things):
            pairs += [Pair(pixels[index], thing.captions) for pixels in seen]
    return pairs


def train_small_clip(folder: Path) -> None:
    """Train it and write it as a folder for `load_clip`."""
    encoder = fresh_clip(CONFIG)
    pairs = pairs_of(map(draw_picture, range(PICTURES)), encoder.side)
    with on_one_thread():
        train_towers(encoder, pairs, TowersConfig(steps=STEPS, batch=64, learning_rate=4e-3))
    save_clip(encoder.model, CONFIG, folder)


def encoded(encoder: MaskEncoder, pictures: Iterable[Picture]) -> np.ndarray:
    """Return the vectors of all objects of pictures, float16 (N, D), in order."""
    return np.concatenate(
        [
            encoder.encode(picture.image_HWC, [thing.rle for thing in picture.things])
            for picture in pictures
        ]
    )
