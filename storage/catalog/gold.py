"""Gold images, whose true masks are known, and the scores of people's answers to them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import and_, delete, func, or_, select

from storage.catalog.sessions import Repository
from storage.catalog.states import TaskKind, TaskState
from storage.catalog.tables import GoldImageRow, GoldScoreRow, TaskRow


@dataclass(frozen=True, kw_only=True, slots=True)
class NewGoldScore:
    """The score of the answer to a gold task; fields as in `engine.evaluation.gold.GoldScore`."""

    task_id: int
    annotator_id: int
    dataset_id: int
    image_id: int
    truths: int
    found_50: int
    found_75: int
    extra: int
    iou: float | None
    boundary_f: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredGoldScore(NewGoldScore):
    """A stored score."""

    created_at: datetime


class Gold(Repository):
    """Reached as `catalog.gold`."""

    def mark(self, dataset_id: int, image_ids: Collection[int]) -> int:
        """Make images of the dataset gold images; repeating it changes nothing.

        Returns:
            The number of new ones.

        Raises:
            ConstraintError: no such dataset or image.
        """
        common = {"dataset_id": dataset_id, "created_at": self._sessions.now()}
        rows = [{"image_id": image_id, **common} for image_id in sorted(set(image_ids))]
        return self._sessions.insert(GoldImageRow, rows)

    def unmark(self, dataset_id: int, image_ids: Collection[int]) -> int:
        """Make gold images ordinary ones; returns how many were gold. The scores of their answers
        stay, and count again if an image becomes gold again."""
        return self._sessions.change(
            delete(GoldImageRow).where(
                GoldImageRow.dataset_id == dataset_id, GoldImageRow.image_id.in_(set(image_ids))
            )
        )

    def image_ids(self, dataset_id: int) -> list[int]:
        """The ids of the dataset's gold images, ascending."""
        query = select(GoldImageRow.image_id).where(GoldImageRow.dataset_id == dataset_id)
        return self._sessions.values(query.order_by(GoldImageRow.image_id))

    def place(self, annotator_id: int, dataset_id: int) -> int:
        """The number of tasks of stages 1 and 2 that the annotator has finished on the dataset,
        gold ones included: submitted ones, and gold ones that they skipped."""
        done = and_(TaskRow.annotator_id == annotator_id, TaskRow.state == TaskState.SUBMITTED)
        skipped = and_(TaskRow.reserved_for == annotator_id, TaskRow.state == TaskState.SKIPPED)
        query = select(func.count()).where(
            TaskRow.dataset_id == dataset_id, TaskRow.kind != TaskKind.REVIEW, or_(done, skipped)
        )
        return self._sessions.value(query) or 0

    def known_images(self, annotator_id: int, dataset_id: int) -> set[int]:
        """Ids of the dataset's images on which the annotator has, had or will have a task."""
        theirs = or_(TaskRow.annotator_id == annotator_id, TaskRow.reserved_for == annotator_id)
        query = select(TaskRow.image_id).where(TaskRow.dataset_id == dataset_id, theirs)
        return set(self._sessions.values(query))

    def add_score(self, score: NewGoldScore) -> None:
        """Store the score of a task; the first one is kept.

        Raises:
            ConstraintError: no such task, annotator or dataset.
        """
        self._sessions.insert(GoldScoreRow, [{**asdict(score), "created_at": self._sessions.now()}])

    def scores(
        self,
        *,
        dataset_id: int | None = None,
        task_id: int | None = None,
    ) -> list[StoredGoldScore]:
        """Scores of answers to images that are gold now, oldest first, of one dataset or task, or
        all."""
        is_gold = GoldScoreRow.image_id.in_(select(GoldImageRow.image_id))
        query = (
            select(GoldScoreRow)
            .where(is_gold)
            .order_by(GoldScoreRow.created_at, GoldScoreRow.task_id)
        )
        if dataset_id is not None:
            query = query.where(GoldScoreRow.dataset_id == dataset_id)
        if task_id is not None:
            query = query.where(GoldScoreRow.task_id == task_id)
        return self._sessions.records(StoredGoldScore, query)
