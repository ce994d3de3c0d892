"""Agreement of people on images that several of them annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import func, select

from storage.catalog.sessions import Repository
from storage.catalog.tables import RoundRow
from storage.catalog.thread_tables import ConsensusRow


@dataclass(frozen=True, kw_only=True, slots=True)
class NewConsensus:
    """What the answers to a task and its copies came to; see `ConsensusRow`. f1 and iou: in
    [0, 1]. `review_run`: the run in which a reviewer picks; None where people agree."""

    task_id: int
    dataset_id: int
    round_id: int | None
    people: Sequence[int]
    f1: float
    iou: float
    review_run: str | None
    merged: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundAgreement:
    """Means over the images of a round that several people annotated."""

    dataset_id: int
    stage: str
    round: int
    images: int
    f1: float
    iou: float
    reviewed: int
    """Images on which people disagree."""


class Consensus(Repository):
    """Reached as `catalog.consensus`."""

    def add(self, row: NewConsensus) -> None:
        """Record what a group of tasks came to; the first record is kept.

        Raises:
            ConstraintError: no such task, dataset or round.
        """
        values = asdict(row) | {"created_at": self._sessions.now()}
        self._sessions.insert(ConsensusRow, [values])

    def by_round(self, dataset_id: int) -> list[RoundAgreement]:
        """The agreement in each round of a dataset, oldest first."""
        query = (
            select(
                RoundRow.stage,
                RoundRow.number,
                func.count(),
                func.avg(ConsensusRow.f1),
                func.avg(ConsensusRow.iou),
                func.count(ConsensusRow.review_run),
            )
            .join(RoundRow, RoundRow.id == ConsensusRow.round_id)
            .where(ConsensusRow.dataset_id == dataset_id)
            .group_by(RoundRow.id, RoundRow.stage, RoundRow.number)
            .order_by(RoundRow.id)
        )
        with self._sessions.reading() as session:
            return [
                RoundAgreement(
                    dataset_id=dataset_id,
                    stage=str(stage),
                    round=number,
                    images=images,
                    f1=float(f1),
                    iou=float(iou),
                    reviewed=reviewed,
                )
                for stage, number, images, f1, iou, reviewed in session.execute(query)
            ]
