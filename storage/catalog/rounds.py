"""Rounds: one pass of a stage between two retrainings, the unit of the loop's state machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from engine.core.records import Stage
from storage.catalog.errors import NotFoundError, StaleStateError
from storage.catalog.sessions import Repository, count_changed, insert_new, to_record
from storage.catalog.states import RoundState
from storage.catalog.tables import RoundImageRow, RoundRow

TRANSITIONS = {
    RoundState.PLANNED: {RoundState.OPENED},
    RoundState.OPENED: {RoundState.COLLECTED},
    RoundState.COLLECTED: {RoundState.TRAINED, RoundState.DONE},
    RoundState.TRAINED: {RoundState.DONE},
    RoundState.DONE: set(),
}
"""The states that may follow each state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round of a loop.

    Attributes:
        position: index into the loop's plan, from 0.
        number: index of this round among those of its stage, from 1.
        run_id: the run that collects masks; `train_run_id`: the one that retrains.
    """

    id: int
    loop_id: int
    dataset_id: int
    position: int
    stage: Stage
    number: int
    state: RoundState
    model_in: str | None
    model_out: str | None
    run_id: str | None
    train_run_id: str | None
    metrics: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class Rounds(Repository):
    """Reached as `catalog.rounds`."""

    def get(self, round_id: int) -> Round:
        """The round of that id.

        Raises:
            NotFoundError: no such round.
        """
        missing = NotFoundError(f"no round with id {round_id}")
        return self._sessions.get(Round, RoundRow, round_id, missing)

    def for_loop(self, loop_id: int) -> list[Round]:
        """The loop's rounds in their order."""
        query = select(RoundRow).where(RoundRow.loop_id == loop_id).order_by(RoundRow.position)
        return self._sessions.records(Round, query)

    def advance(
        self,
        round_id: int,
        from_state: RoundState,
        to_state: RoundState,
        *,
        model_in: str | None = None,
        model_out: str | None = None,
        run_id: str | None = None,
        train_run_id: str | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> Round:
        """Move a round to its next state and write the given fields; metrics are added to the
        existing ones.

        Raises:
            ValueError: the transition is not in `TRANSITIONS`.
            NotFoundError: no such round.
            StaleStateError: the round is not in `from_state`; read it again.
        """
        if to_state not in TRANSITIONS[RoundState(from_state)]:
            raise ValueError(f"a round cannot go from {from_state!r} to {to_state!r}")
        given = {
            "model_in": model_in,
            "model_out": model_out,
            "run_id": run_id,
            "train_run_id": train_run_id,
        }
        values = {name: value for name, value in given.items() if value is not None}
        statement = update(RoundRow).where(RoundRow.id == round_id, RoundRow.state == from_state)
        with self._sessions.session() as session:
            row = session.get(RoundRow, round_id)
            if row is None:
                raise NotFoundError(f"no round with id {round_id}")
            changed = count_changed(
                session,
                statement.values(
                    state=to_state,
                    updated_at=self._sessions.now(),
                    metrics={**row.metrics, **(metrics or {})},
                    **values,
                ),
            )
            session.refresh(row)
            if not changed:
                raise StaleStateError(f"round {round_id} is {row.state}, expected {from_state}")
            session.commit()
            return to_record(Round, row)

    def assign_images(
        self, round_id: int, image_ids: Sequence[int], metrics: Mapping[str, Any] | None = None
    ) -> int:
        """Assign images to the round; repeating it changes nothing.

        Args:
            metrics: added to the round's.

        Returns:
            The number of newly assigned images.

        Raises:
            ConstraintError: no such round or image.
        """
        rows = [{"round_id": round_id, "image_id": image_id} for image_id in sorted(image_ids)]
        with self._sessions.session() as session:
            new = insert_new(session, RoundImageRow, rows)
            if metrics and (row := session.get(RoundRow, round_id)) is not None:
                row.metrics = {**row.metrics, **metrics}
            session.commit()
            return len(new)

    def image_ids(self, round_id: int) -> list[int]:
        """The ids of the round's images, ascending."""
        query = select(RoundImageRow.image_id).where(RoundImageRow.round_id == round_id)
        return self._sessions.values(query.order_by(RoundImageRow.image_id))
