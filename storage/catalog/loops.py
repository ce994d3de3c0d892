"""Loops: a plan of rounds for one dataset, and its progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from engine.core.records import Stage
from storage.catalog.errors import LoopConflictError, NotFoundError
from storage.catalog.sessions import Repository, insert_new, to_record
from storage.catalog.states import LoopState, RoundState
from storage.catalog.tables import LoopRow, RoundRow

LOOP_STAGES = (Stage.ASSISTED_MANUAL, Stage.SEMI_AUTOMATIC, Stage.FULLY_AUTOMATIC)

SIMULATED = "simulated"
"""Name of the simulated annotator in the catalog, and the default annotator of a round."""

PEOPLE = "people"
"""Annotator of a round whose tasks go to the annotation page."""

RANDOM, DISAGREEMENT, DIVERSITY, MIX = "random", "disagreement", "diversity", "mix"
CHOICES = (RANDOM, DISAGREEMENT, DIVERSITY, MIX)
"""How a round's images are chosen: in order of ingest; those whose automatic masks have the lowest
scores; those that look least like the annotated ones; half by each of the latter two."""

OF_PROGRAM = "program:"
"""Beginning of a choice of the images that a program's run selected, in order of ingest; its tag or
id follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRound:
    """One round in a loop's plan.

    Raises:
        ValueError: the stage is not one of a loop's three.
    """

    stage: Stage
    images: int
    """Maximum number of images."""
    retrain: bool = False
    """Whether the round ends in a retrain."""
    annotator: str = SIMULATED
    """`simulated` or `people`."""
    choice: str = RANDOM
    """How the images are chosen: one of `CHOICES`, or OF_PROGRAM and a run."""

    def __post_init__(self) -> None:
        if self.stage not in LOOP_STAGES:
            raise ValueError(f"a round's stage is {', '.join(LOOP_STAGES)}, got {self.stage!r}")
        if self.choice not in CHOICES and not self.choice.startswith(OF_PROGRAM):
            raise ValueError(f"images are chosen by {', '.join(CHOICES)}, got {self.choice!r}")

    def to_json(self) -> dict[str, Any]:
        """The stored form; it names the annotator only if people annotate, and the choice only if
        it is not in order of ingest."""
        choice = {} if self.choice == RANDOM else {"choice": self.choice}
        people = {"annotator": PEOPLE} if self.annotator == PEOPLE else {}
        return {
            "stage": str(self.stage),
            "images": self.images,
            "retrain": self.retrain,
            **people,
            **choice,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PlannedRound:
        """Parse the stored form."""
        return cls(**{**stored, "stage": Stage(stored["stage"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """A dataset's loop; a round's `position` is its index in the plan."""

    id: int
    dataset_id: int
    plan: list[PlannedRound]
    state: LoopState
    created_at: datetime
    finished_at: datetime | None


class Loops(Repository):
    """Reached as `catalog.loops`."""

    def start_or_resume(
        self, dataset_id: int, plan: Sequence[PlannedRound], *, new: bool = False
    ) -> Loop:
        """The loop with this plan: the unfinished one, else the latest finished one (see `state`),
        else a new one with its rounds planned.

        Args:
            new: start a new loop if the plan was finished before. An unfinished loop is resumed
                in any case.

        Raises:
            ValueError: the plan is empty.
            LoopConflictError: the dataset has an unfinished loop with another plan.
            ConstraintError: no such dataset.
        """
        if not plan:
            raise ValueError("a loop's plan needs at least one round")
        wanted = list(plan)
        while True:
            with self._sessions.session() as session:
                loop = self._existing(session, dataset_id, wanted, new)
                loop = loop or self._create(session, dataset_id, wanted)
                session.commit()
                if loop is not None:  # else another process has just started one: read again
                    return _loop_of(loop)

    @staticmethod
    def _existing(
        session: Session, dataset_id: int, plan: list[PlannedRound], new: bool
    ) -> LoopRow | None:
        query = select(LoopRow).where(LoopRow.dataset_id == dataset_id).order_by(LoopRow.id.desc())
        loops = session.scalars(query).all()
        same = {loop.id: _loop_of(loop).plan == plan for loop in loops}
        for loop in loops:
            if loop.state == LoopState.RUNNING and not same[loop.id]:
                raise LoopConflictError(
                    f"dataset {dataset_id} has the unfinished loop {loop.id} with another plan of "
                    f"{len(loop.plan)} rounds; finish that one first"
                )
        for loop in loops:
            if same[loop.id] and (loop.state == LoopState.RUNNING or not new):
                return loop
        return None

    def _create(
        self, session: Session, dataset_id: int, plan: list[PlannedRound]
    ) -> LoopRow | None:
        now = self._sessions.now()
        loop = {
            "dataset_id": dataset_id,
            "plan": [entry.to_json() for entry in plan],
            "state": LoopState.RUNNING,
            "created_at": now,
            "finished_at": None,
        }
        created = insert_new(session, LoopRow, [loop])
        if not created:
            return None
        loop_id: int = created[0][0]
        numbers: Counter[str] = Counter()
        for position, entry in enumerate(plan):
            numbers[entry.stage] += 1
            session.add(
                RoundRow(
                    loop_id=loop_id,
                    dataset_id=dataset_id,
                    position=position,
                    stage=entry.stage,
                    number=numbers[entry.stage],
                    state=RoundState.PLANNED,
                    metrics={},
                    created_at=now,
                    updated_at=now,
                )
            )
        return session.get_one(LoopRow, loop_id)

    def get(self, loop_id: int) -> Loop:
        """The loop of that id.

        Raises:
            NotFoundError: no such loop.
        """
        with self._sessions.reading() as session:
            row = session.get(LoopRow, loop_id)
            if row is None:
                raise NotFoundError(f"no loop with id {loop_id}")
            return _loop_of(row)

    def latest(self, dataset_id: int) -> Loop | None:
        """The dataset's last started loop, or None."""
        query = select(LoopRow).where(LoopRow.dataset_id == dataset_id).order_by(LoopRow.id.desc())
        with self._sessions.reading() as session:
            row = session.scalars(query.limit(1)).one_or_none()
            return None if row is None else _loop_of(row)

    def finish(self, loop_id: int) -> Loop:
        """Finish a loop; finishing it again keeps the first time.

        Raises:
            NotFoundError: no such loop.
        """
        statement = (
            update(LoopRow)
            .where(LoopRow.id == loop_id, LoopRow.state == LoopState.RUNNING)
            .values(state=LoopState.FINISHED, finished_at=self._sessions.now())
        )
        self._sessions.change(statement)
        return self.get(loop_id)


def _loop_of(row: LoopRow) -> Loop:
    plan = [PlannedRound.from_json(entry) for entry in row.plan]
    return replace(to_record(Loop, row), plan=plan)
