"""Simulated audits: whether their intervals cover the true share, and what they save.

    python -m tests.benchmarks.quality_audit --json

Populations of 10,000 masks in strata of known quality are audited 200 times each, as `dataengine
audit` does, with 400 masks at most and the true share as the target. The last line of `--json` is
one JSON object: `audit_coverage`, the share of audits whose 95 % interval covers the true share, by
population, and `audit_masks`, the number of judged masks divided by that of a simple sample, judged
at once, with an interval of equal width.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from engine.evaluation.audit import (
    Counts,
    Decision,
    Share,
    allocate,
    decide,
    error_at_looks,
    looks,
    share_of,
)

ALPHA = 0.05
DIFFERENT = ([1500, 2500, 6000], [0.35, 0.95, 0.998])
LIKE_SA1B = ([1000, 3000, 6000], [0.5, 0.9, 0.995])
ALIKE = ([3000, 3000, 4000], [0.94, 0.94, 0.94])
MANY = (
    [300, 400, 500, 600, 800, 1000, 1400, 2000, 3000],
    [0.5, 0.6, 0.7, 0.8, 0.9, 0.93, 0.95, 0.98, 0.99],
)
PERFECT = ([3000, 7000], [1.0, 1.0])


def counts(*columns: list[int]) -> Counts:
    return Counts(*(np.array(column) for column in columns))


def simulated(
    strata: tuple[list[int], list[float]], target: float, limit: int, seed: int
) -> tuple[bool, int, float, Decision]:
    """One audit of a made-up population: whether its interval has the true share, the number of
    judged masks, the interval's width, and the decision."""
    rng = np.random.default_rng(seed)
    sizes = np.array(strata[0])
    good = np.rint(sizes * np.array(strata[1])).astype(int)
    truth = good.sum() / sizes.sum()
    drawn = [
        rng.permutation(np.arange(size) < hits) for size, hits in zip(sizes, good, strict=True)
    ]
    planned = looks(limit)
    now, share = Counts(0 * sizes, 0 * sizes, sizes), Share(0.0, 0.0, 1.0)
    for total, alpha in zip(planned, error_at_looks(planned, 1 - ALPHA), strict=True):
        judged = allocate(total, now)
        hits = [masks[:count].sum() for masks, count in zip(drawn, judged, strict=True)]
        now = Counts(np.array(hits), judged, sizes)
        share = share_of(now, alpha).narrowed(share)
        decision = decide(share, target, is_last=total == planned[-1])
        if decision != Decision.CONTINUE:
            break
    is_covered = share.low - 1e-12 <= truth <= share.high + 1e-12
    return is_covered, int(judged.sum()), share.high - share.low, decision


def simple_sample(share: float, masks: int, width: float) -> int:
    """The size of a simple random sample, judged at once, whose interval has this width."""
    low, high = 2, masks
    while low < high:
        middle = (low + high) // 2
        found = share_of(counts([round(share * middle)], [middle], [masks]), ALPHA)
        low, high = (low, middle) if found.high - found.low <= width else (middle + 1, high)
    return low


POPULATIONS = {
    "different": DIFFERENT,
    "like_sa1b": LIKE_SA1B,
    "alike": ALIKE,
    "many": MANY,
    "perfect": PERFECT,
}
AUDITS = 200
LIMIT = 400


def measure(audits: int = AUDITS) -> dict[str, Any]:
    """Return the figures that the module's docstring names."""
    covered: dict[str, float] = {}
    masks: dict[str, float] = {}
    for name, strata in POPULATIONS.items():
        share = float(np.average(strata[1], weights=strata[0]))
        found = [simulated(strata, share, LIMIT, seed) for seed in range(audits)]
        covered[name] = float(np.mean([row[0] for row in found]))
        judged, width = (float(np.mean([row[column] for row in found])) for column in (1, 2))
        masks[name] = judged / simple_sample(share, sum(strata[0]), width)
    return {"audit_coverage": covered, "audit_masks": masks}


def main() -> int:
    """Run the audits and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.quality_audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    print(json.dumps(measure(), indent=None if given.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
