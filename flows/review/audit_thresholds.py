"""Score thresholds for a stated precision, from the masks that an audit has judged.

Masks below the thresholds with which they were made do not exist, so an audit can only make
thresholds stricter. They are chosen on the judged masks themselves, and the estimate of what they
give is therefore a little too high: another audit measures it.

N = masks of the audit, H = strata.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from engine.evaluation.audit import Counts, Share, share_of
from engine.evaluation.calibration import PREDICTED_STEPS, STABILITY_STEPS
from engine.sam import Thresholds
from flows.review.audit import judged_masks
from flows.review.audit_plan import AuditError
from flows.training.calibrate import CALIBRATED_BY_AUDIT
from flows.workspace.audits import latest_audit
from flows.workspace.workspace import Workspace
from storage.catalog import Run

MIN_JUDGED = 20
"""Thresholds are chosen only if at least this many judged masks pass them."""


@dataclass(frozen=True, slots=True)
class AuditedThresholds:
    """What thresholds give on the masks of an audit: the share of its masks that pass, and the
    share of good ones among these, with its interval."""

    thresholds: Thresholds
    kept: float
    judged: int
    precision: Share


@dataclass(frozen=True, slots=True)
class ThresholdChange:
    """Thresholds of a model version before and after, and the audit that they follow from."""

    version: str
    dataset: str
    audit: str
    at_iou: float
    target: float
    before: AuditedThresholds
    after: AuditedThresholds

    def to_json(self) -> dict[str, Any]:
        """The change as JSON."""
        return asdict(self)


def thresholds_from_audit(
    workspace: Workspace, dataset: str, precision: float, at_iou: float | None = None
) -> ThresholdChange:
    """Return thresholds for the current model with which at least the share `precision` of the
    dataset's masks is good, by its latest audit; of these, the ones that keep the most masks.

    Args:
        workspace: the workspace; it is not changed.
        dataset: name of the audited dataset.
        precision: share of good masks, (0, 1].
        at_iou: IoU with its corrected version from which a mask is good; None: the audit's.

    Raises:
        AuditError: there is no audit, too few masks of the current model were judged, or no
            thresholds reach the precision.
        DatasetNotFoundError: no such dataset.
    """
    for name, value in (("precision", precision), ("at_iou", at_iou)):
        if value is not None and not 0 < value <= 1:
            raise AuditError(
                f"{name} must be above 0 and at most 1, got {value:g}; 90 percent is 0.9"
            )
    row = workspace.catalog.datasets.get(dataset)
    run = latest_audit(workspace, row.id)
    if run is None:
        raise AuditError(
            f"dataset {dataset!r} has no finished audit; begin one with "
            f"`dataengine audit --dataset {dataset}`"
        )
    version = workspace.current_model().version
    level = float(run.config["audit"]["asked"]["at_iou"]) if at_iou is None else at_iou
    measure = _Measure(workspace, run, version, level)
    before = measure.with_thresholds(workspace.segmenter(version).thresholds)
    if before.judged < MIN_JUDGED:
        raise AuditError(
            f"the latest audit of {dataset!r} judged {before.judged} masks of the current model "
            f"{version}, and {MIN_JUDGED} are needed; make masks with it (`dataengine generate "
            f"--dataset {dataset}`) and audit again"
        )
    tried = [measure.with_thresholds(one) for one in _pairs_from(before.thresholds)]
    tried = [one for one in tried if one.judged >= MIN_JUDGED]
    good = [one for one in tried if one.precision.estimate >= precision]
    if not good:
        best = max(tried, key=lambda one: one.precision.estimate)
        raise AuditError(
            f"no thresholds give a precision of {precision:g} at IoU {level:g}: the best is "
            f"{best.precision.estimate:.3f}, with predicted IoU above "
            f"{best.thresholds.min_predicted_iou:g} and stability from "
            f"{best.thresholds.min_stability:g}; ask for less, or retrain on the corrected masks "
            f"(`dataengine retrain --dataset {dataset}`)"
        )
    after = max(good, key=lambda one: one.kept)
    return ThresholdChange(version, dataset, run.id, level, precision, before, after)


def use_thresholds(workspace: Workspace, change: ThresholdChange) -> None:
    """Write the thresholds onto the version's card, with what they give.

    Raises:
        AuditError: settings of the workspace override the card.
        NotFoundError: no such version.
    """
    generator = workspace.settings.generator
    fields = ("min_predicted_iou", "min_stability")
    if fixed := [name for name in fields if getattr(generator, name) is not None]:
        raise AuditError(
            f"dataengine.toml sets {' and '.join(fixed)} under [generator], which override the "
            "model's thresholds; remove them, and repeat the command"
        )
    card = workspace.catalog.models.get(change.version).card
    figures = change.to_json()
    note = (
        f"Thresholds follow from audit {change.audit} of {change.dataset} (precision "
        f"{change.after.precision.estimate:.2f} at IoU {change.at_iou:g}, target "
        f"{change.target:g})."
    )
    entries = {
        "thresholds": asdict(change.after.thresholds),
        "note": note,
        "scores": {**card.get("scores", {}), CALIBRATED_BY_AUDIT: figures},
    }
    workspace.catalog.models.describe(change.version, entries)
    workspace.segmenter(change.version).thresholds = change.after.thresholds


def _pairs_from(current: Thresholds) -> list[Thresholds]:
    """Return these thresholds and stricter ones, in steps."""
    return [
        replace(
            current,
            min_predicted_iou=predicted,
            min_stability=stability,
            confident_iou=max(current.confident_iou, predicted),
        )
        for predicted in sorted({current.min_predicted_iou, *PREDICTED_STEPS})
        for stability in sorted({current.min_stability, *STABILITY_STEPS})
        if predicted >= current.min_predicted_iou and stability >= current.min_stability
    ]


class _Measure:
    """Measures thresholds on the masks of an audit that one model version made."""

    def __init__(self, workspace: Workspace, run: Run, version: str, level: float) -> None:
        judged = judged_masks(workspace, run)
        frame = judged.frame
        self.predicted_N, self.stability_N = frame.predicted_iou_N, frame.stability_N
        self.stratum_N, self.strata = frame.stratum_N, len(frame.names)
        ious = [judged.ious.get(name, math.nan) for name in frame.mask_ids]
        self.iou_N = np.array(ious, np.float64)
        self.level = level
        self.alpha = 1 - float(run.config["audit"]["asked"]["confidence"])
        self.counted_N = np.array(
            [
                model == version and name not in judged.left_out
                for model, name in zip(frame.models, frame.mask_ids, strict=True)
            ],
            bool,
        )

    def with_thresholds(self, thresholds: Thresholds) -> AuditedThresholds:
        """Measure. Masks without a stability score pass every threshold on it."""
        passed = self.counted_N & (self.predicted_N > thresholds.min_predicted_iou)
        passed &= ~(self.stability_N < thresholds.min_stability)
        judged = passed & ~np.isnan(self.iou_N)
        good = judged & (self.iou_N >= self.level)
        count = int(judged.sum())
        share = Share(0.0, 0.0, 1.0)
        if count:
            columns = (self._by_stratum(rows) for rows in (good, judged, passed))
            share = share_of(Counts(*columns), self.alpha)
        kept = float(passed.sum()) / max(int(self.counted_N.sum()), 1)
        return AuditedThresholds(thresholds, kept, count, share)

    def _by_stratum(self, rows_N: np.ndarray) -> np.ndarray:
        return np.bincount(self.stratum_N[rows_N], minlength=self.strata)
