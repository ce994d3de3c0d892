"""What a learned verifier saves: verdicts that people need not give, at a stated precision.

    python -m tests.benchmarks.quality_verifier --data DATA --json

For each domain, the shipped model makes automatic masks (preset `default` with POINTS_PER_SIDE and
no crops) of `train` images and of `val` images of DATA, which holds COCO-style folders, `images`
beside `instances.json`. A mask is acceptable if its IoU with a true mask is at least GOOD_IOU.

Simulated reviewers judge all masks of the `train` images; WRONG of their verdicts are wrong. A
verifier learns from these verdicts, and thresholds are chosen by its cross-fitted probabilities for
each of PRECISIONS, as `dataengine verifier route` does. Then it routes the masks of the `val`
images, which it has never seen, and the same reviewers judge the rest:

- `saved`: the share of the `val` masks that needs no person;
- `accepted_right`, `rejected_right`: the true precision of sure accepts and of sure rejects, with
  their numbers; None if there are none;
- `kept_precision`: the true share of acceptable masks among those kept, by verifier and people
  together; `people_precision`: the same if people judge all masks, with as many wrong verdicts;
- `kept_recall`, `people_recall`: the share of acceptable masks that is kept;
- `equal`: whether `kept_precision` is at least `people_precision` - TOLERANCE.

`alone` has the same figures for a route by predicted IoU x stability alone, calibrated on the same
verdicts. `quality` has log loss, AUC and calibration error on the true acceptability of `val`.

`verifier_saved` is, by domain, `saved` at PRECISION if `equal` holds there, else 0.
`held` is the share of THRESHOLD_RUNS bootstrap samples of the `train` images in which thresholds
chosen for the precision reach it, truly, on `val`.

Masks and features are kept in `--folder`, so a second run takes seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from engine.automatic import MaskGenerator, preset
from engine.core.malloc import keep_freed_memory
from engine.core.rle import iou_matrix
from engine.sam import load_segmenter
from engine.sam.embedding_file import read_embedding, write_embedding
from engine.verifier.features import NAMES, Picture, features
from engine.verifier.learning import (
    SCORES,
    Judged,
    by_scores_alone,
    cross_fitted,
    gain,
    learn,
    platt,
    quality,
)
from engine.verifier.model import WHOLE, VerifierCard, sigmoid
from engine.verifier.routing import choose_route
from tests.benchmarks.base_model import folder_images

DOMAINS = ("nuclei", "bsds500")
POINTS_PER_SIDE = 16
GOOD_IOU = 0.75
WRONG = 0.03
PRECISION = 0.9
PRECISIONS = (0.95, PRECISION, 0.85)
TOLERANCE = 0.03
THRESHOLD_RUNS = 100
SEED = 20261127


def masks_of(folder: Path, data: Path, name: str, limit: int) -> dict[str, np.ndarray]:
    """Return features (N, F), highest IoU with a truth (N,) and image (N,) of the automatic masks
    of a folder's first images, from the cache if they are there."""
    path = folder / f"{name.replace('/', '-')}-{limit}.npz"
    if not path.exists():
        segmenter = load_segmenter()
        config = preset("default", points_per_side=POINTS_PER_SIDE, crop_layers=0)
        generator = MaskGenerator(segmenter, config)
        rows, ious, images = [np.zeros((0, len(NAMES)), np.float32)], [np.zeros(0)], list[int]()
        place = data / name
        for number, item in enumerate(
            folder_images(place / "images", place / "instances.json", limit)
        ):
            found = generator.generate(item.image_HWC)
            stored = write_embedding(segmenter.embed(item.image_HWC))
            rows.append(features(Picture(item.image_HWC, read_embedding(stored), found)))
            overlap = iou_matrix([mask.rle for mask in found], item.truths)
            ious.append(overlap.max(axis=1, initial=0))
            images += [number] * len(found)
            print(f"{name}: {number + 1} images, {len(images)} masks", file=sys.stderr)
        np.savez(path, x=np.concatenate(rows), iou=np.concatenate(ious), image=np.array(images))
    with np.load(path) as kept:
        return dict(kept)


def judged(masks: dict[str, np.ndarray]) -> Judged:
    """Return the masks with their true acceptability."""
    good = masks["iou"] >= GOOD_IOU
    return Judged(masks["x"], good, masks["image"], np.zeros(len(good), bool))


def with_mistakes(truth_N: np.ndarray, seed: int) -> np.ndarray:
    """Return reviewers' verdicts, bool (N,): the truth, with WRONG of them turned round."""
    return truth_N ^ (np.random.default_rng([SEED, seed]).random(len(truth_N)) < WRONG)


def alone_on(known: Judged, fresh: Judged) -> np.ndarray:
    """Return probabilities of other masks by predicted IoU x stability alone, (N,)."""

    def log_odds(item: Judged) -> np.ndarray:
        product = sigmoid(item.features_NF[:, SCORES].astype(np.float64)).prod(axis=1)
        return np.asarray(np.log(product / (1 - product)))

    slope, offset = platt(log_odds(known), known.accepted_N)
    return sigmoid(slope * log_odds(fresh) + offset)


def outcome(
    known: Judged, crossed_N: np.ndarray, fresh: Judged, found_N: np.ndarray, precision: float
) -> dict[str, Any]:
    """Route the masks of `fresh`, whose verdicts are the truth, by thresholds from `known`."""
    route = choose_route(crossed_N, known.accepted_N, known.image_N, precision)
    ways, truth = route.sorted(found_N), fresh.accepted_N
    people = with_mistakes(truth, 2)
    kept = np.where(ways == 0, people, ways == 1)

    def share(of: np.ndarray, among: np.ndarray) -> float | None:
        return float(of[among].mean()) if among.any() else None

    figures = {
        "saved": float((ways != 0).mean()),
        "accepted": int((ways == 1).sum()),
        "accepted_right": share(truth, ways == 1),
        "rejected": int((ways == -1).sum()),
        "rejected_right": share(~truth, ways == -1),
        "kept_precision": share(truth, kept),
        "people_precision": share(truth, people),
        "kept_recall": share(kept, truth),
        "people_recall": share(people, truth),
    }
    least = (figures["people_precision"] or 0.0) - TOLERANCE
    equal = (figures["kept_precision"] or 0.0) >= least
    return {**figures, "equal": equal, "accept": asdict(route.accept)["threshold"]}


def held(known: Judged, crossed_N: np.ndarray, fresh: Judged, found_N: np.ndarray) -> Any:
    """Return, by precision, how often thresholds from resampled images reach it on `fresh`."""
    rng = np.random.default_rng(SEED)
    rows_of = [np.flatnonzero(known.image_N == image) for image in np.unique(known.image_N)]
    found: dict[str, float | None] = {}
    for precision in PRECISIONS:
        reached: list[bool] = []
        for _ in range(THRESHOLD_RUNS):
            picks = rng.integers(len(rows_of), size=len(rows_of))
            rows = np.concatenate([rows_of[pick] for pick in picks])
            images = np.repeat(np.arange(len(picks)), [len(rows_of[pick]) for pick in picks])
            route = choose_route(crossed_N[rows], known.accepted_N[rows], images, precision)
            ways = route.sorted(found_N)
            for way, right in ((1, fresh.accepted_N), (-1, ~fresh.accepted_N)):
                if (ways == way).any():
                    reached.append(bool(right[ways == way].mean() >= precision))
        found[str(precision)] = float(np.mean(reached)) if reached else None
    return found


def measure(folder: Path, data: Path, domain: str, train: int, val: int) -> dict[str, Any]:
    """Learn on a domain's `train` images, and route the masks of its `val` images."""
    truly = judged(masks_of(folder, data, f"{domain}/train", train))
    fresh = judged(masks_of(folder, data, f"{domain}/val", val))
    known = Judged(
        truly.features_NF, with_mistakes(truly.accepted_N, 1), truly.image_N, truly.held_out_N
    )
    verifier = learn(known, VerifierCard(version=domain, segmenter="lite"))
    learned = verifier.of_features(fresh.features_NF, np.full(len(fresh), WHOLE))
    scores = alone_on(known, fresh)
    crossed, crossed_alone = cross_fitted(verifier, known), by_scores_alone(known)
    better = gain(known, crossed_alone, crossed, 0.95)
    return {
        "verdicts": len(known),
        "train_images": len(np.unique(known.image_N)),
        "val_masks": len(fresh),
        "acceptable": float(fresh.accepted_N.mean()),
        "promoted": (better.low or 0.0) > 0,
        "gain": asdict(better),
        "quality": quality(learned, fresh.accepted_N),
        "quality_alone": quality(scores, fresh.accepted_N),
        "routes": {str(p): outcome(known, crossed, fresh, learned, p) for p in PRECISIONS},
        "alone": {str(p): outcome(known, crossed_alone, fresh, scores, p) for p in PRECISIONS},
        "held": held(known, crossed, fresh, learned),
    }


def saved(routes: dict[str, dict[str, Any]]) -> float:
    """Return the share of saved verdicts at PRECISION; 0 if what is kept is less precise."""
    row = routes[str(PRECISION)]
    return float(row["saved"]) if row["equal"] else 0.0


def print_results(results: dict[str, dict[str, Any]]) -> None:
    """Print one row per domain, kind of route and precision."""
    names = ("saved", "accepted_right", "rejected_right", "kept_precision", "people_precision")
    table = Table("domain", "by", "precision", *names, "kept_recall")
    for domain, found in results.items():
        for kind in ("routes", "alone"):
            for precision, row in found[kind].items():
                cells = [row[name] for name in (*names, "kept_recall")]
                told = ["–" if cell is None else f"{cell:.3f}" for cell in cells]
                by = "verifier" if kind == "routes" else "scores alone"
                table.add_row(domain, by, precision, *told)
    Console(width=160).print(table)


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with COCO-style sets")
    parser.add_argument("--folder", type=Path, default=Path(".cache/quality_verifier"))
    parser.add_argument("--train", type=int, default=60, help="images to learn from")
    parser.add_argument("--val", type=int, default=40, help="images to report on")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    results = {
        domain: measure(given.folder, given.data, domain, given.train, given.val)
        for domain in DOMAINS
    }
    print_results(results)
    if given.json:
        by_domain = {name: saved(found["routes"]) for name, found in results.items()}
        alone = {name: saved(found["alone"]) for name, found in results.items()}
        print(
            json.dumps(
                {"verifier_saved": by_domain, "verifier_saved_alone": alone, "domains": results}
            )
        )


if __name__ == "__main__":
    main()
