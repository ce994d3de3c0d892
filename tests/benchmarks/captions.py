"""What a small CoCa, trained on generated pictures, says of unseen ones.

    python -m tests.benchmarks.captions --steps 3000 --json

A CoCa of `engine.semantics.coca.SMALL`, for captions of CONTEXT tokens, is trained from random
weights on masked crops of the objects of PICTURES pictures of `tests.labelled_shapes`, with the
contrastive and the captioning loss together. Each has one sentence, `a COLOUR SHAPE.` It then
describes the objects of UNSEEN other pictures:

- `colour`, `shape`, `both`: the share of captions that name the true one (of 6, 5 and 30);
- `chance`: the share that the most frequent name of the training would be right on;
- `proposed`: how many of the 11 true words are among the proposed names and their adjectives;
- `contrastive`: the share of masks whose true name is the most similar of the 30 by the vectors of
  the same model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from engine.semantics.captions import noun_phrases
from engine.semantics.clip import save_clip
from engine.semantics.coca import CAPTION_WEIGHT, SMALL, CocaCaptioner, fresh_coca
from engine.semantics.contrastive import Pair, TowersConfig, on_one_thread, train_towers
from engine.semantics.crops import cut_crops
from tests.labelled_shapes import COLOURS, SHAPES, Thing, draw_picture

PICTURES, UNSEEN, FIRST_UNSEEN = 600, 60, 100_000
CONTEXT = 8
"""Beginning, six tokens at most, and end."""
SCALE = 1.1
TEXTS = ("text_cfg", "multimodal_cfg")


def crops_of(seeds: range, side: int) -> tuple[np.ndarray, list[Thing]]:
    """Return a crop of each object of pictures, RGB uint8 (N, S, S, 3), and the objects."""
    crops, things = list[np.ndarray](), list[Thing]()
    for seed in seeds:
        picture = draw_picture(seed)
        rles = [thing.rle for thing in picture.things]
        crops.append(cut_crops(picture.image_HWC, rles, SCALE, side).masked())
        things += picture.things
    return np.concatenate(crops), things


def main() -> None:
    """Parse the arguments, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, help="folder for the trained model")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    given = parser.parse_args()
    shorter = {name: {**SMALL[name], "context_length": CONTEXT} for name in TEXTS}
    encoder, began = fresh_coca({**SMALL, **shorter}), time.monotonic()
    crops, things = crops_of(range(PICTURES), encoder.side)
    pairs = [Pair(crop, (f"a {one.name}.",)) for crop, one in zip(crops, things, strict=True)]
    config = TowersConfig(steps=given.steps, batch=given.batch, learning_rate=2e-3)

    def told(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step}: {loss:.3f}, {time.monotonic() - began:.0f} s", flush=True)

    with on_one_thread():
        trained = train_towers(encoder, pairs, config, told, caption_weight=CAPTION_WEIGHT)
        seconds = time.monotonic() - began
        if given.out:
            save_clip(trained.model, trained.config, given.out)
        unseen, true = crops_of(range(FIRST_UNSEEN, FIRST_UNSEEN + UNSEEN), encoder.side)
        said = CocaCaptioner(trained).caption(list(unseen))
        names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
        texts = trained.encode_texts([f"a {name}." for name in names])
        best = (trained.encode_pixels(unseen) @ texts.T).argmax(axis=1)
    words = {word for one in said for phrase in noun_phrases(one) for word in phrase.split()}
    most = Counter(one.name for one in things).most_common(1)[0][0]
    figures = {
        "masks": len(true),
        "colour": _share(one.colour in text for one, text in zip(true, said, strict=True)),
        "shape": _share(one.shape in text for one, text in zip(true, said, strict=True)),
        "both": _share(one.name in text for one, text in zip(true, said, strict=True)),
        "chance": _share(one.name == most for one in true),
        "proposed": len(words & {*COLOURS, *SHAPES}),
        "contrastive": _share(names[row] == one.name for row, one in zip(best, true, strict=True)),
        "seconds": round(seconds),
    }
    for one, text in list(zip(true, said, strict=True))[:8]:
        print(f"{one.name:18} {text}")
    print(json.dumps(figures) if given.json else figures)


def _share(right: Iterable[bool]) -> float:
    found = list(right)
    return round(sum(found) / len(found), 3)


if __name__ == "__main__":
    main()
