"""What a few-shot judge saves beside a learned verifier, on real automatic masks.

    python -m tests.benchmarks.quality_judge --data DATA --json

Masks, reviewers, verifier, thresholds and columns are those of `tests.benchmarks.quality_verifier`.
The judge is simulated, since no model that sees pictures is shipped: for each of RIGHT it says yes
or no as the truth is in that share of the masks, with log-odds that are larger where it is right,
and its answers are calibrated and routed as `dataengine review judge` does. `lies` says the
opposite of the first judge. `on` is whether the calibration switches the judge on at the precision;
`saved` is 0 where it is off.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.core.malloc import keep_freed_memory
from engine.verifier.few_shot import Calibration
from engine.verifier.learning import Judged, cross_fitted, learn
from engine.verifier.model import WHOLE, VerifierCard
from tests.benchmarks.quality_verifier import (
    DOMAINS,
    PRECISION,
    SEED,
    judged,
    masks_of,
    outcome,
    with_mistakes,
)

RIGHT = (0.95, 0.85, 0.75)


def answers(truth_N: np.ndarray, right: float, seed: int) -> np.ndarray:
    """Return a simulated judge's log-odds of yes, (N,)."""
    rng = np.random.default_rng([SEED, seed])
    is_right = rng.random(len(truth_N)) < right
    size = np.abs(rng.normal(np.where(is_right, 2.0, 1.0), 1.0))
    return np.where(truth_N == is_right, size, -size)


def by_judge(
    known: Judged, truly: Judged, fresh: Judged, right: float, sign: int, precision: float
) -> Any:
    """Return the figures of a judge: calibrated on reviewers' verdicts, routed on `fresh`."""
    calibration = Calibration(
        sign * answers(truly.accepted_N, right, 3), known.accepted_N, known.image_N
    )
    on, reason = calibration.check(precision)
    found = calibration.probabilities(sign * answers(fresh.accepted_N, right, 4))
    row = outcome(known, calibration.crossed(), fresh, found, precision)
    return {**row, "saved": row["saved"] if on else 0.0, "on": on, "reason": reason}


def measure(
    folder: Path, data: Path, domain: str, train: int, val: int, precision: float
) -> dict[str, Any]:
    """Return the figures of the verifier and of each judge on a domain's `val` masks."""
    truly = judged(masks_of(folder, data, f"{domain}/train", train))
    fresh = judged(masks_of(folder, data, f"{domain}/val", val))
    said = with_mistakes(truly.accepted_N, 1)
    known = Judged(truly.features_NF, said, truly.image_N, truly.held_out_N)
    verifier = learn(known, VerifierCard(version=domain, segmenter="lite"))
    learned = verifier.of_features(fresh.features_NF, np.full(len(fresh), WHOLE))
    rows = {"verifier": outcome(known, cross_fitted(verifier, known), fresh, learned, precision)}
    for right in RIGHT:
        rows[f"judge {right:g}"] = by_judge(known, truly, fresh, right, 1, precision)
    rows["lies"] = by_judge(known, truly, fresh, RIGHT[0], -1, precision)
    return {"verdicts": len(known), "val_masks": len(fresh), "rows": rows}


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with COCO-style sets")
    parser.add_argument("--folder", type=Path, default=Path(".cache/quality_verifier"))
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS))
    parser.add_argument("--train", type=int, default=60, help="images to learn from")
    parser.add_argument("--val", type=int, default=40, help="images to report on")
    parser.add_argument("--precision", type=float, default=PRECISION)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for domain in given.domains:
        sizes = given.train, given.val
        found[domain] = measure(given.folder, given.data, domain, *sizes, given.precision)
        for name, row in found[domain]["rows"].items():
            told = ", ".join(
                f"{key} {row[key]:.3f}"
                for key in ("saved", "kept_precision", "people_precision")
                if row[key] is not None
            )
            print(f"{domain}, {name}: {told} {row.get('reason', '')}", file=sys.stderr)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
