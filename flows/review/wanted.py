"""Which masks go to review: by source, stage, annotator, score and size, or by the rules on
people's work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from engine.core.errors import DataEngineError
from engine.core.records import PEOPLES, Mask, Source, Stage
from engine.evaluation.gold import Judgement
from flows.review.audit_frame import SIZE_EDGES, SIZES
from flows.workspace import progress
from flows.workspace.gold import standings
from flows.workspace.workspace import Workspace
from storage.catalog import AnnotatorKind, Dataset


class BadWantedError(DataEngineError):
    """A score band or a size cannot be read; the message says what is expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Masks that a review is to be about; a field without a value allows all.

    Raises:
        BadWantedError: a value is wrong.
    """

    source: Source | None = Source.AUTOMATIC
    stage: Stage | None = None
    by: str | None = None
    """Name of the annotator who made or kept the mask."""
    score: tuple[float, float] | None = None
    """Lowest and highest predicted IoU, in [0, 1]."""
    size: str | None = None
    """small (below 32² pixels), medium (below 96²) or large."""
    rules: bool = False
    """Of people's masks, those that the rules choose (`masks_by_rules`)."""

    def __post_init__(self) -> None:
        if self.size not in (None, *SIZES):
            raise BadWantedError(f"a size is {', '.join(SIZES)}; got {self.size!r}")
        if self.score is not None and not 0 <= self.score[0] <= self.score[1] <= 1:
            raise BadWantedError(f"a score band is like 0.7-0.9, within 0 and 1; got {self.score}")

    @classmethod
    def parse(
        cls,
        *,
        source: str | None = None,
        stage: str | None = None,
        by: str | None = None,
        score: str | None = None,
        size: str | None = None,
        rules: bool = False,
    ) -> Wanted:
        """Read options. The source is automatic by default; with an annotator or rules, any.

        Raises:
            BadWantedError: a value cannot be read.
        """
        band = None
        if score is not None:
            low, _, high = score.partition("-")
            try:
                band = (float(low), float(high))
            except ValueError as error:
                raise BadWantedError(f"a score band is like 0.7-0.9, got {score!r}") from error
        chosen = None if source is None else Source(source)
        if source is None and by is None and not rules:
            chosen = Source.AUTOMATIC
        of_stage = None if stage is None else Stage(stage)
        return cls(source=chosen, stage=of_stage, by=by, score=band, size=size, rules=rules)

    def suits(self, mask: Mask) -> bool:
        """Whether a mask is one of these."""
        if self.source not in (None, mask.source) or self.stage not in (None, mask.stage):
            return False
        if self.by not in (None, mask.annotator):
            return False
        if self.size is not None and SIZES[sum(mask.area >= e for e in SIZE_EDGES)] != self.size:
            return False
        score = mask.predicted_iou
        return self.score is None or (score is not None and self.score[0] <= score <= self.score[1])

    def to_config(self) -> dict[str, Any]:
        """What a review run keeps; nothing of the default."""
        if self == AUTOMATIC:
            return {}
        kept = {name: value for name, value in asdict(self).items() if value is not None}
        return {"wanted": kept, **({"stage": self.stage} if self.stage else {})}


AUTOMATIC = Wanted()
"""All automatic masks."""


def check_wanted(workspace: Workspace, dataset: str, wanted: Wanted) -> None:
    """Check names before a review starts, and say what the rules do with each person's masks.

    Raises:
        BadWantedError: no annotator has the name.
        DatasetNotFoundError: no such dataset.
    """
    row = workspace.catalog.datasets.get(dataset)
    if wanted.by is not None and workspace.catalog.annotators.find(wanted.by) is None:
        raise BadWantedError(
            f"there is no annotator {wanted.by!r}; `dataengine annotators list` has the names"
        )
    if wanted.rules:
        for one in rule_shares(workspace, row).values():
            progress.current().say(f"{one.annotator}: {one.share:.0%} of the images ({one.said})")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleShare:
    """The share of an annotator's images that the rules send to review, and why."""

    annotator: str
    judgement: Judgement
    share: float

    @property
    def said(self) -> str:
        """The reason, in words."""
        if self.judgement == Judgement.UNDECIDED:
            return "their gold score is not known to lie above or below the threshold"
        return f"their gold score lies {self.judgement} the threshold"


def rule_shares(workspace: Workspace, dataset: Dataset) -> dict[str, RuleShare]:
    """What the rules say about each person, by name, from the dataset's gold tasks."""
    rules = workspace.settings.quality
    found = standings(workspace, dataset.id)
    shares = {
        Judgement.BELOW: 1.0,
        Judgement.ABOVE: rules.review_share_good,
        Judgement.UNDECIDED: rules.review_share,
    }
    rows = {}
    for person in workspace.catalog.annotators.all():
        if person.kind == AnnotatorKind.PERSON:
            stands = found.get(person.id)
            said = stands.judge(rules.gold_threshold) if stands else Judgement.UNDECIDED
            rows[person.name] = RuleShare(annotator=person.name, judgement=said, share=shares[said])
    return rows


def masks_by_rules(
    workspace: Workspace,
    dataset: Dataset,
    wanted: Wanted,
    *,
    images: int | None,
    within: Collection[int] | None = None,
) -> dict[int, list[Mask]]:
    """Return people's masks that the rules send to review and that no review task contains, by
    image. An image of an annotator is in it or not, the same at every call.

    Args:
        images: the most images; None: all.
        within: only these images; None: all.
    """
    shares = rule_shares(workspace, dataset)
    asked = workspace.catalog.verdicts.asked_mask_ids(dataset.id)
    found: dict[int, list[Mask]] = {}
    for source in PEOPLES:
        for mask in workspace.masks.masks(
            dataset=dataset.name,
            source=source,
            stage=wanted.stage,
            image_ids=within,
            current_only=True,
        ):
            rule = shares.get(str(mask.annotator))
            is_fix = mask.supersedes is not None  # made by a reviewer
            if rule is None or is_fix or mask.mask_id in asked or not wanted.suits(mask):
                continue
            if _chance(mask.image_id, rule.annotator) < rule.share:
                found.setdefault(mask.image_id, []).append(mask)
    first = sorted(found, key=lambda image_id: _chance(image_id, ""))[:images]
    return {image_id: found[image_id] for image_id in sorted(first)}


def _chance(image_id: int, name: str) -> float:
    """A number in [0, 1) that looks random and is always the same."""
    return int(sha256(f"{image_id}/{name}".encode()).hexdigest()[:12], 16) / 16**12
