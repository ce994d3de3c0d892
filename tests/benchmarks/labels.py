"""How good suggested categories are, and how fast vectors are searched.

    python -m tests.benchmarks.labels --data DATA --json

For each set of SETS and each encoder: masks of half of the images are labelled, at most K of a
category, and a suggester is learned from them; it suggests categories for all masks of the other
half. Per number K and mean over SEEDS: accuracy, the share of masks that need no person at a
precision of PRECISION (`confirmed`), the precision that these have, and seconds of a person per
label by the cost model (engine.simulation.annotator):

- one by one: a glance at each mask, and a key;
- in the grid: a glance at each mask that is not confirmed, and a click and a key where it is wrong.

With --vectors N, N random vectors of `lite`'s length are written and read through the vector files:
seconds to suggest categories for all, milliseconds of a search, and the process's memory.

The last line of `--json` is one JSON object: `confirmed_at_95` by set at 20 labels a category of
the encoder `--encoder`, `suggest_seconds`, `search_p95_ms`, and all figures under `sets`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from engine.core.rle import RLE
from engine.semantics.encoders import MaskEncoder, load_encoder
from engine.semantics.search import most_similar
from engine.semantics.suggesting import (
    Labelled,
    SuggesterCard,
    TooFewLabelsError,
    learn,
)
from engine.simulation.annotator import CostModel
from storage.formats.images import read_image
from storage.local_store import LocalStore
from storage.vectors import MaskVectors, VectorFiles

SETS = {
    "bin_items": "eval/bin_items",
    "street": "eval/street",
    "coco_open": "train_open/coco_open",
    "hand_tools": "train_open/hand_tools",
    "kuih_food": "train_open/kuih_food",
}
LABELS = (5, 20, 100)
"""Labelled masks of a category."""
SEEDS = (1, 2, 3, 4, 5)
PRECISION = 0.95
LEAST_MASKS = 15
"""Categories with fewer masks in a set are left out."""
ENCODERS = ("lite", "imagenet")

CATEGORIES = 20
QUERIES = 50
BLOCK = 50_000


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """All masks of a set: vectors (N, D), and category and image of each mask, int (N,)."""

    vectors_ND: np.ndarray
    category_N: np.ndarray
    image_N: np.ndarray


def encode_set(folder: Path, encoder: MaskEncoder, kept: Path) -> LabelledSet:
    """Return the vectors of a set's masks whose category is frequent; kept in a file."""
    if not kept.exists():
        coco = json.loads((folder / "instances.json").read_text())
        counts = Counter(row["label"] for row in coco["annotations"])
        names = sorted(name for name, count in counts.items() if count >= LEAST_MASKS)
        by_image: dict[int, list[dict[str, Any]]] = {}
        for row in coco["annotations"]:
            if row["label"] in names:
                by_image.setdefault(row["image_id"], []).append(row)
        vectors, categories, images = [], [], []
        for image in coco["images"]:
            rows = by_image.get(image["id"], [])
            if rows:
                pixels = read_image((folder / "images" / image["file_name"]).read_bytes())
                vectors.append(encoder.encode(pixels, [_rle(row) for row in rows]))
                categories += [names.index(row["label"]) + 1 for row in rows]
                images += [image["id"]] * len(rows)
        kept.parent.mkdir(parents=True, exist_ok=True)
        found_ND = np.concatenate(vectors)
        np.savez(kept, vectors=found_ND, category=np.array(categories), image=np.array(images))
    with np.load(kept) as found:
        return LabelledSet(found["vectors"], found["category"], found["image"])


def _rle(annotation: dict[str, Any]) -> RLE:
    found = annotation["segmentation"]
    return RLE(tuple(found["size"]), found["counts"].encode())


def halves(found: LabelledSet, labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the labelled masks, at most `labels` of a category, of one half of the
    images, and all rows of the other half."""
    rng = np.random.default_rng(seed)
    images = rng.permutation(np.unique(found.image_N))
    is_asked = np.isin(found.image_N, images[: len(images) // 2])
    chosen: list[int] = []
    for category in np.unique(found.category_N):
        rows = np.flatnonzero(~is_asked & (found.category_N == category))
        chosen += rng.permutation(rows)[:labels].tolist()
    return np.array(chosen), np.flatnonzero(is_asked)


def score_set(found: LabelledSet, labels: int) -> dict[str, float]:
    """Return the means over SEEDS of the figures of the module's docstring."""
    rows = []
    right_sure = sure = 0
    cost = CostModel()
    for seed in SEEDS:
        chosen, asked = halves(found, labels, seed)
        columns = (found.vectors_ND, found.category_N, found.image_N)
        card = SuggesterCard(version="benchmark", encoder="", precision=PRECISION)
        try:
            suggester = learn(Labelled(*(column[chosen] for column in columns)), card)
        except TooFewLabelsError:
            continue
        said = suggester.suggest(found.vectors_ND[asked])
        right = said.category_N == found.category_N[asked]
        is_sure = said.probability_N >= suggester.card.confident
        sure, right_sure = sure + int(is_sure.sum()), right_sure + int(right[is_sure].sum())
        fix = (~right & ~is_sure).mean() * 2 * cost.click
        rows.append(
            {
                "accuracy": float(right.mean()),
                "confirmed": float(is_sure.mean()),
                "one_by_one_seconds": cost.glance + cost.click,
                "grid_seconds": float((~is_sure).mean() * cost.glance + fix),
            }
        )
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {**means, "confirmed_precision": right_sure / sure if sure else float("nan")}


def measure_speed(count: int, folder: Path) -> dict[str, float]:
    """Return seconds and memory of suggestions for, and searches in, `count` random vectors."""
    size = load_encoder("lite").dimensions
    rng = np.random.default_rng(0)
    files = VectorFiles(LocalStore(folder / "store"), folder / "cache")
    centres = rng.standard_normal((CATEGORIES, size), np.float32)
    for shard, start in enumerate(range(0, count, BLOCK)):
        rows = min(BLOCK, count - start)
        vectors = centres[rng.integers(CATEGORIES, size=rows)]
        vectors += 3 * rng.standard_normal(vectors.shape, np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = pa.array([f"run/{(start + row) // 20}/{row}" for row in range(rows)])
        images = np.arange(start, start + rows) // 20
        files.write("run", shard, MaskVectors(ids, images, vectors.astype(np.float16)))
    blocks = list(files.read(["run"]))
    shown = centres[np.repeat(np.arange(CATEGORIES), 20)]
    shown = shown + 3 * rng.standard_normal(shown.shape, np.float32)
    shown /= np.linalg.norm(shown, axis=1, keepdims=True)
    category = np.repeat(np.arange(CATEGORIES), 20) + 1
    labelled = Labelled(shown, category, np.arange(len(shown)))
    began = time.perf_counter()
    suggester = learn(labelled, SuggesterCard(version="benchmark", encoder="lite"))
    for block in blocks:
        suggester.suggest(block.vectors_ND)
    seconds = time.perf_counter() - began
    times = []
    for number in range(QUERIES):
        query = blocks[number % len(blocks)].vectors_ND[number].astype(np.float32)
        began = time.perf_counter()
        best = most_similar((block.vectors_ND for block in blocks), query, 50)
        times.append(1000 * (time.perf_counter() - began))
        assert (best[0].block, best[0].row) == (number % len(blocks), number)
    return {
        "vectors": float(count),
        "suggest_seconds": seconds,
        "search_p50_ms": float(np.percentile(times, 50)),
        "search_p95_ms": float(np.percentile(times, 95)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.labels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder of the sets' folders; none: speed only")
    parser.add_argument("--set", action="append", choices=SETS, help="default: all")
    parser.add_argument("--encoder", choices=ENCODERS, default="lite", help="of confirmed_at_95")
    parser.add_argument("--vectors", type=int, default=1_000_000, help="0: no measurement of speed")
    parser.add_argument("--folder", type=Path, default=Path(".cache/labels"), help="for vectors")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    sets: dict[str, Any] = {}
    if given.data is not None:
        for encoder in map(load_encoder, ENCODERS):
            for name in given.set or SETS:
                kept = given.folder / f"{name}-{encoder.version}.npz"
                found = encode_set(given.data / SETS[name], encoder, kept)
                scores = {str(labels): score_set(found, labels) for labels in LABELS}
                sets.setdefault(name, {"masks": len(found.image_N)})[encoder.name] = scores
                print(name, encoder.name, scores, file=sys.stderr, flush=True)
    speed: dict[str, float] = {}
    if given.vectors:
        with TemporaryDirectory(prefix="dataengine-") as fresh:
            speed = measure_speed(given.vectors, Path(fresh))
    table = Table(
        "set", "encoder", "labels", "accuracy", "confirmed", "of these right", "s a label"
    )
    for name, row in sets.items():
        for encoder_name in ENCODERS:
            for labels, one in row[encoder_name].items():
                numbers = (one[key] for key in ("accuracy", "confirmed", "confirmed_precision"))
                shown = (*(f"{value:.3f}" for value in numbers), f"{one['grid_seconds']:.2f}")
                table.add_row(name, encoder_name, labels, *shown)
    console = Console(stderr=given.json)
    console.print(table, speed)
    if given.json:
        confirmed = {name: row[given.encoder]["20"]["confirmed"] for name, row in sets.items()}
        print(json.dumps({"confirmed_at_95": confirmed, **speed, "sets": sets}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
