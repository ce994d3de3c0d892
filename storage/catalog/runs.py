"""Runs: executions that make masks, models or releases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update

from storage.catalog.errors import AlreadyExistsError, NotFoundError, StaleStateError
from storage.catalog.sessions import (
    Repository,
    Sessions,
    count_changed,
    insert_new,
    to_record,
)
from storage.catalog.states import RunKind, RunState, ShardState
from storage.catalog.tables import RunRow, ShardRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One execution, with all that is needed to reproduce its results."""

    id: str
    kind: RunKind
    dataset_id: int
    round_id: int | None
    model: str | None
    state: RunState
    config: dict[str, Any]
    code_version: str
    started_at: datetime
    finished_at: datetime | None
    metrics: dict[str, Any]
    error: str | None
    cpu_seconds: float
    gpu_seconds: float
    """Seconds that its processes have reported so far (`spend`)."""
    alive_until: datetime | None = None
    """Until when a process is known to work on it (`beat`)."""


class Runs(Repository):
    """Reached as `catalog.runs`."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__(sessions)
        self.before_new: Callable[[], None] = lambda: None
        """Called before a run with a new id is added; an error prevents that."""

    def start(
        self,
        run_id: str,
        kind: RunKind,
        *,
        dataset_id: int,
        round_id: int | None = None,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        code_version: str = "",
    ) -> Run:
        """Start a run, or resume it: a known id keeps its first config, a failed run is running
        again, a finished one stays finished.

        Args:
            run_id: `new_id()`, or an id derived from the run's purpose.

        Raises:
            AlreadyExistsError: the id belongs to a run of another kind or dataset.
            ConstraintError: no such dataset or round.
        """
        values = {
            "id": run_id,
            "kind": kind,
            "dataset_id": dataset_id,
            "round_id": round_id,
            "model": model,
            "state": RunState.RUNNING,
            "config": config or {},
            "code_version": code_version,
            "started_at": self._sessions.now(),
            "metrics": {},
        }
        if self._sessions.value(select(RunRow.id).where(RunRow.id == run_id)) is None:
            self.before_new()
        again = update(RunRow).where(RunRow.id == run_id, RunRow.state == RunState.FAILED)
        with self._sessions.session() as session:
            if not insert_new(session, RunRow, [values]):
                count_changed(
                    session, again.values(state=RunState.RUNNING, error=None, finished_at=None)
                )
            row = session.get_one(RunRow, run_id)
            if (row.kind, row.dataset_id) != (kind, dataset_id):
                raise AlreadyExistsError(
                    f"run {run_id} is a {row.kind} run of dataset {row.dataset_id} already"
                )
            session.commit()
            return to_record(Run, row)

    def finish(self, run_id: str, metrics: dict[str, Any] | None = None) -> Run:
        """Finish a run; repeating it keeps the first metrics.

        Raises:
            NotFoundError: no such run.
            StaleStateError: the run has failed; start it again first.
        """
        return self._end(run_id, RunState.FINISHED, metrics=metrics or {})

    def fail(self, run_id: str, error: str) -> Run:
        """Record why a run failed; a second failure keeps the first error.

        Raises:
            NotFoundError: no such run.
            StaleStateError: the run has finished.
        """
        return self._end(run_id, RunState.FAILED, error=error)

    def spend(self, run_id: str, *, cpu_seconds: float, gpu_seconds: float = 0.0) -> None:
        """Add to a run's cost, in seconds; several workers may do so at once. An unknown run is
        ignored."""
        statement = update(RunRow).where(RunRow.id == run_id)
        values = {
            "cpu_seconds": RunRow.cpu_seconds + cpu_seconds,
            "gpu_seconds": RunRow.gpu_seconds + gpu_seconds,
        }
        self._sessions.change(statement.values(**values))

    def set_progress(self, run_id: str, progress: float) -> None:
        """Store the progress of a running run, 0 to 1, if it has neither shards nor tasks. A run
        that is not running stays unchanged."""
        statement = update(RunRow).where(RunRow.id == run_id, RunRow.state == RunState.RUNNING)
        self._sessions.change(statement.values(metrics={"progress": round(progress, 3)}))

    def beat(self, run_id: str, seconds: float) -> None:
        """Record that a process works on the run, and will call again within this many seconds."""
        alive = self._sessions.now() + timedelta(seconds=seconds)
        statement = update(RunRow).where(RunRow.id == run_id)
        self._sessions.change(statement.values(alive_until=alive))

    def silent(self, since: datetime) -> list[Run]:
        """Running runs without a heartbeat or a valid shard lease since then, oldest first. This
        includes runs that wait for people."""
        held = select(ShardRow.run_id).where(
            ShardRow.run_id == RunRow.id,
            ShardRow.state == ShardState.LEASED,
            ShardRow.lease_expires_at > since,
        )
        query = select(RunRow).where(
            RunRow.state == RunState.RUNNING,
            func.coalesce(RunRow.alive_until, RunRow.started_at) < since,
            ~held.exists(),
        )
        return self._sessions.records(Run, query.order_by(RunRow.started_at, RunRow.id))

    def _end(self, run_id: str, state: RunState, **values: Any) -> Run:
        statement = update(RunRow).where(RunRow.id == run_id, RunRow.state == RunState.RUNNING)
        ended = statement.values(state=state, finished_at=self._sessions.now(), **values)
        changed = self._sessions.change(ended)
        run = self.get(run_id)
        if not changed and run.state != state:
            raise StaleStateError(f"run {run_id} is {run.state}, it cannot become {state}")
        return run

    def get(self, run_id: str) -> Run:
        """The run of that id.

        Raises:
            NotFoundError: no such run.
        """
        return self._sessions.get(Run, RunRow, run_id, NotFoundError(f"no run {run_id!r}"))

    def all(
        self,
        *,
        dataset_id: int | None = None,
        kind: RunKind | None = None,
        state: RunState | None = None,
        unfinished: bool = False,
        limit: int = 100,
    ) -> list[Run]:
        """Runs, latest first; `unfinished`: running and failed ones, which can be resumed."""
        query = select(RunRow).order_by(RunRow.started_at.desc(), RunRow.id).limit(limit)
        if dataset_id is not None:
            query = query.where(RunRow.dataset_id == dataset_id)
        if kind is not None:
            query = query.where(RunRow.kind == kind)
        if state is not None:
            query = query.where(RunRow.state == state)
        if unfinished:
            query = query.where(RunRow.state != RunState.FINISHED)
        return self._sessions.records(Run, query)

    def counts(self, dataset_id: int | None = None) -> dict[RunState, int]:
        """The number of runs by state."""
        query = select(RunRow.state, func.count()).group_by(RunRow.state)
        if dataset_id is not None:
            query = query.where(RunRow.dataset_id == dataset_id)
        return self._sessions.counts(query, RunState)
