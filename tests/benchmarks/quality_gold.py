"""How soon gold tasks find a careless annotator, and how often they blame a careful one.

    python -m tests.benchmarks.quality_gold --data DATA/nuclei/val --json
    python -m tests.benchmarks.quality_gold --json               # on generated scenes

Simulated people answer gold tasks: all have noisy outlines, careful ones a hundredth of careless
masks, careless ones a tenth (`engine.simulation.noise`). Their answers are scored as the page's
are. Each person gets the images in a random order, a fresh answer each time. FOLDER has `images`
beside `instances.json`; the images themselves are not read.

The last line of `--json` is one JSON object: `gold_tasks_to_find`, the median and the 90th
percentile of the gold tasks until a careless person's interval lies below the threshold (null:
never within TASKS), and `gold_false_alarms`, the share of careful people to whom that happens
within TASKS.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.rle import RLE, decode, encode_batch
from engine.evaluation.gold import LOOKS, Judgement, score_answer, standing
from engine.simulation.noise import CAREFUL, CARELESS, Noise, noisy_masks
from engine.simulation.scenes import generate_scene
from flows.workspace.setting_sections import QualitySettings
from storage.formats.coco import BadAnnotationsError, read_coco

TASKS = 100
FIRST_SCENE = 77_000_000
SEED = 20261127


def truths_of(folder: Path, limit: int) -> list[list[RLE]]:
    """The true masks of the first images of a COCO-style folder that have some.

    Raises:
        BadAnnotationsError: the annotations cannot be read.
    """
    coco = read_coco(folder / "instances.json")
    found: list[list[RLE]] = []
    for image in sorted(coco.images, key=lambda image: image.file_name):
        if image.size is None or len(found) == limit:
            continue
        masks, _ = coco.masks_for(image.file_name, image.size)
        if masks:
            found.append(masks)
    return found


def scene_truths(count: int) -> list[list[RLE]]:
    """The true masks of generated scenes."""
    scenes = [generate_scene(FIRST_SCENE + number) for number in range(count)]
    return [encode_batch(np.stack(scene.masks)) for scene in scenes if scene.masks]


def answers(
    truths: Sequence[Sequence[RLE]], noise: Noise, each: int, rng: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """Found and true objects of `each` answers to each image."""
    found = []
    for rles in truths:
        masks = [decode(rle) for rle in rles]
        row = []
        for _ in range(each):
            given = noisy_masks(rng, masks, noise)
            score = score_answer(encode_batch(np.stack(given)) if given else [], rles)
            row.append((score.found_50, score.truths))
        found.append(row)
    return found


def first_alarm(
    bank: Sequence[Sequence[tuple[int, int]]], threshold: float, rng: np.random.Generator
) -> int | None:
    """The number of gold tasks after which a person's score is below the threshold, or None."""
    order = np.concatenate([rng.permutation(len(bank)) for _ in range(TASKS // len(bank) + 1)])
    images = order[:TASKS].tolist()
    given = [bank[image][int(rng.integers(len(bank[image])))] for image in images]
    for tasks in LOOKS:
        now = standing(given[:tasks])
        if now is not None and now.judge(threshold) == Judgement.BELOW:
            return tasks
    return None


def measure(truths: Sequence[Sequence[RLE]], people: int, each: int, seed: int) -> dict[str, Any]:
    """The benchmark's figures."""
    rng = np.random.default_rng(seed)
    threshold = QualitySettings().gold_threshold
    alarms, shares = {}, {}
    for name, noise in (("careful", CAREFUL), ("careless", CARELESS)):
        bank = answers(truths, noise, each, rng)
        pooled = np.array(bank).reshape(-1, 2).sum(axis=0)
        shares[name] = round(float(pooled[0] / pooled[1]), 4)
        alarms[name] = [first_alarm(bank, threshold, rng) for _ in range(people)]
    late = [TASKS + 1 if tasks is None else tasks for tasks in alarms["careless"]]
    ends = [float(np.quantile(late, level, method="higher")) for level in (0.5, 0.9)]
    median, most = (int(end) if end <= TASKS else None for end in ends)
    false = sum(tasks is not None for tasks in alarms["careful"])
    return {
        "gold_tasks_to_find": {"median": median, "p90": most},
        "gold_false_alarms": false / people,
        "threshold": threshold,
        "score_careful": shares["careful"],
        "score_careless": shares["careless"],
        "people": people,
        "images": len(truths),
        "objects_per_image": float(np.median([len(rles) for rles in truths])),
        "seed": seed,
    }


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, help="COCO-style folder; generated scenes without it")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--people", type=int, default=400, help="of each kind")
    parser.add_argument("--answers", type=int, default=5, help="to each image, of each kind")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        truths = truths_of(given.data, given.images) if given.data else scene_truths(given.images)
    except (BadAnnotationsError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    found = measure(truths, given.people, given.answers, given.seed)
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
