"""Verdicts of reviewers on masks. A mask's latest verdict counts; one by a model counts only if
nobody else has judged the mask."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, case, func, or_, select
from sqlalchemy.orm import aliased

from storage.catalog.sessions import Repository
from storage.catalog.states import (
    AnnotatorKind,
    RunState,
    Split,
    TaskKind,
    TaskState,
    VerdictKind,
)
from storage.catalog.tables import AnnotatorRow, ImageRow, RunRow, TaskRow, VerdictRow

ROWS = 500
"""Tasks read at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewVerdict:
    """A verdict on one mask of a review task; a fix names the new mask.

    Raises:
        ValueError: a fix without a new mask, or another verdict with one.
    """

    mask_id: str
    task_id: int
    verdict: VerdictKind
    annotator_id: int
    seconds: float
    fixed_mask_id: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.verdict == VerdictKind.FIX) != (self.fixed_mask_id is not None):
            raise ValueError(f"a fix names a new mask, other verdicts do not: {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A stored verdict."""

    id: int
    mask_id: str
    task_id: int
    verdict: VerdictKind
    annotator_id: int
    seconds: float
    fixed_mask_id: str | None
    reason: str | None
    created_at: datetime


class PlacedVerdict(NamedTuple):
    """A verdict and the image of its mask."""

    id: int
    image_id: int
    mask_id: str
    verdict: VerdictKind


class Verdicts(Repository):
    """Reached as `catalog.verdicts`."""

    def add_many(self, rows: Sequence[NewVerdict]) -> int:
        """Add verdicts; a task's first verdict on a mask is kept.

        Returns:
            The number of new verdicts.

        Raises:
            ConstraintError: no such task or annotator.
        """
        now = {"created_at": self._sessions.now()}
        return self._sessions.insert(VerdictRow, [asdict(row) | now for row in rows])

    def for_run(self, run_id: str) -> list[Verdict]:
        """The verdicts in the tasks of a review run, oldest first."""
        query = select(VerdictRow).join(TaskRow, TaskRow.id == VerdictRow.task_id)
        query = query.where(TaskRow.run_id == run_id).order_by(VerdictRow.id)
        return self._sessions.records(Verdict, query)

    def latest_id(self) -> int:
        """The id of the newest verdict of all datasets; 0 without verdicts."""
        return self._sessions.value(select(func.max(VerdictRow.id))) or 0

    def after(self, dataset_id: int, verdict_id: int) -> list[PlacedVerdict]:
        """The dataset's verdicts with higher ids, in order of id."""
        query = (
            select(VerdictRow.id, TaskRow.image_id, VerdictRow.mask_id, VerdictRow.verdict)
            .join(TaskRow, TaskRow.id == VerdictRow.task_id)
            .where(TaskRow.dataset_id == dataset_id, VerdictRow.id > verdict_id)
            .order_by(VerdictRow.id)
        )
        with self._sessions.reading() as session:
            return [PlacedVerdict(*row) for row in session.execute(query)]

    def on_image(self, image_id: int) -> list[Verdict]:
        """The verdicts on an image's masks, oldest first."""
        query = select(VerdictRow).join(TaskRow, TaskRow.id == VerdictRow.task_id)
        query = query.where(TaskRow.image_id == image_id).order_by(VerdictRow.id)
        return self._sessions.records(Verdict, query)

    def accepted_mask_ids(self, dataset_id: int, *, split: Split | None = None) -> set[str]:
        """Masks whose latest verdict is accept, on the images of one split or all."""
        return self._mask_ids(dataset_id, VerdictKind.ACCEPT, split)

    def asked_mask_ids(self, dataset_id: int, *, besides: Collection[int] = ()) -> set[str]:
        """Masks with a verdict or in the review queue, except by or for the annotators with the ids
        `besides`."""
        for_others = or_(TaskRow.reserved_for.is_(None), TaskRow.reserved_for.not_in(besides))
        query = select(TaskRow.payload).where(*_in_review(dataset_id), for_others)
        judged = select(VerdictRow.mask_id).join(TaskRow, TaskRow.id == VerdictRow.task_id)
        judged = judged.where(
            TaskRow.dataset_id == dataset_id, VerdictRow.annotator_id.not_in(besides)
        )
        with self._sessions.reading() as session:
            queued = session.scalars(query.execution_options(yield_per=ROWS))
            return _named(queued).union(session.scalars(judged))

    def of_people(self, dataset_id: int) -> list[Verdict]:
        """Each mask's latest verdict by another annotator than a model, oldest first."""
        latest = select(func.max(VerdictRow.id)).join(TaskRow, TaskRow.id == VerdictRow.task_id)
        latest = latest.where(
            TaskRow.dataset_id == dataset_id, VerdictRow.annotator_id.not_in(_MODELS)
        )
        query = select(VerdictRow).where(VerdictRow.id.in_(latest.group_by(VerdictRow.mask_id)))
        return self._sessions.records(Verdict, query.order_by(VerdictRow.id))

    def waiting_mask_ids(self, dataset_id: int) -> set[str]:
        """Masks in the review tasks of unfinished runs, without skipped tasks."""
        query = select(TaskRow.payload).join(RunRow, RunRow.id == TaskRow.run_id)
        query = query.where(*_in_review(dataset_id), RunRow.state != RunState.FINISHED)
        return _named(self._sessions.values(query))

    def rejected_mask_ids(self, dataset_id: int) -> set[str]:
        """Masks whose latest verdict is reject. Fixed masks are in `fixes`."""
        return self._mask_ids(dataset_id, VerdictKind.REJECT)

    def fixes(self, dataset_id: int) -> dict[str, str]:
        """Masks whose latest verdict is fix, and the new mask of each."""
        query = _latest(dataset_id, VerdictRow.mask_id, VerdictRow.fixed_mask_id)
        return self._sessions.pairs(query.where(VerdictRow.verdict == VerdictKind.FIX))

    def agreement(self) -> dict[int, float]:
        """For each reviewer: of the masks that another reviewer also judged, the share with the
        same verdict, 0 to 1. Reviewers without such masks, and models, are left out."""
        other = aliased(VerdictRow)
        same = case((VerdictRow.verdict == other.verdict, 1.0), else_=0.0)
        query = (
            select(VerdictRow.annotator_id, func.avg(same))
            .join(other, other.mask_id == VerdictRow.mask_id)
            .where(
                other.annotator_id != VerdictRow.annotator_id,
                other.annotator_id.not_in(_MODELS),
                VerdictRow.annotator_id.not_in(_MODELS),
            )
            .group_by(VerdictRow.annotator_id)
        )
        return {key: float(value) for key, value in self._sessions.pairs(query).items()}

    def counts(self, dataset_id: int) -> dict[VerdictKind, int]:
        """The number of masks by latest verdict."""
        query = _latest(dataset_id, VerdictRow.verdict, func.count()).group_by(VerdictRow.verdict)
        return self._sessions.counts(query, VerdictKind)

    def asked_in_run(self, run_id: str) -> dict[int, list[str]]:
        """The masks in the tasks of a review run, by image id."""
        query = select(TaskRow.image_id, TaskRow.payload).where(
            TaskRow.run_id == run_id, TaskRow.kind == TaskKind.REVIEW
        )
        found = self._sessions.pairs(query.order_by(TaskRow.image_id))
        return {image_id: payload["mask_ids"] for image_id, payload in found.items()}

    def _mask_ids(
        self, dataset_id: int, verdict: VerdictKind, split: Split | None = None
    ) -> set[str]:
        query = _latest(dataset_id, VerdictRow.mask_id).where(VerdictRow.verdict == verdict)
        if split is not None:
            query = query.join(TaskRow, TaskRow.id == VerdictRow.task_id)
            query = query.join(ImageRow, ImageRow.id == TaskRow.image_id)
            query = query.where(ImageRow.split == split)
        return set(self._sessions.values(query))


_MODELS = select(AnnotatorRow.id).where(AnnotatorRow.kind == AnnotatorKind.MODEL)


def latest_verdict() -> ColumnElement[int]:
    """In a query grouped by mask: the id of the verdict that counts."""
    by_people = case((VerdictRow.annotator_id.in_(_MODELS), None), else_=VerdictRow.id)
    return func.coalesce(func.max(by_people), func.max(VerdictRow.id))


def _in_review(dataset_id: int) -> tuple[ColumnElement[bool], ...]:
    """Conditions for a dataset's review tasks, except skipped ones."""
    return (
        TaskRow.dataset_id == dataset_id,
        TaskRow.kind == TaskKind.REVIEW,
        TaskRow.state != TaskState.SKIPPED,
    )


def _named(payloads: Iterable[dict[str, Any]]) -> set[str]:
    """The masks that the payloads of review tasks name."""
    return {str(name) for payload in payloads for name in payload.get("mask_ids", [])}


def _latest(dataset_id: int, *columns: Any) -> Select[Any]:
    """A query for these columns of each mask's latest verdict."""
    latest = (
        select(latest_verdict())
        .join(TaskRow, TaskRow.id == VerdictRow.task_id)
        .where(TaskRow.dataset_id == dataset_id)
        .group_by(VerdictRow.mask_id)
    )
    return select(*columns).where(VerdictRow.id.in_(latest))
