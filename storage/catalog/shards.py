"""Shards: parts of a run, each processed by one worker and committed atomically."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, select, update
from sqlalchemy.orm import Session

from storage.catalog.errors import LeaseLostError
from storage.catalog.sessions import Repository, count_changed, insert_new, new_id, to_record
from storage.catalog.states import RunKind, ShardState
from storage.catalog.tables import QuarantineRow, RunRow, ShardRow

PLAN_ROWS = 500
"""Shards that `plan` writes at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A part of a run. `masks`, `table_version` and `seconds` are set when it is committed;
    `expiries` counts expired leases that others took over."""

    run_id: str
    shard: int
    state: ShardState
    image_ids: list[int]
    lease_id: str | None
    lease_owner: str | None
    lease_expires_at: datetime | None
    attempts: int
    expiries: int
    masks: int | None
    table_version: int | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTotals:
    """Progress of a run: shards planned and committed, the images in them, masks and seconds so
    far, and the newest version of the mask table among the commits."""

    shards: int
    committed: int
    images: int
    committed_images: int
    masks: int
    seconds: float
    table_version: int | None


class Shards(Repository):
    """Reached as `catalog.shards`. A lease is lost only when another worker takes the shard: until
    then a late commit counts."""

    def plan(self, run_id: str, image_ids: Iterable[Sequence[int]]) -> int:
        """Split a run into shards, once: a run that has shards keeps them, and `image_ids` is not
        read. It is read in parts, so a plan of millions of images needs little memory.

        Args:
            image_ids: the image ids of each shard.

        Returns:
            The number of new shards; 0 if the run was planned before.

        Raises:
            ConstraintError: no such run.
        """
        parts = enumerate(image_ids)
        made = 0
        with self._sessions.session() as session:
            # One process at a time: two plans must not mix their shards.
            session.scalar(select(RunRow.id).where(RunRow.id == run_id).with_for_update())
            if session.scalar(_count(run_id)):
                return 0
            while rows := [_open_shard(run_id, *part) for part in islice(parts, PLAN_ROWS)]:
                made += len(insert_new(session, ShardRow, rows))
            session.commit()
        return made

    def lease(
        self, run_id: str, owner: str, seconds: float, *, now: datetime | None = None
    ) -> Shard | None:
        """Lease the first shard with an expired lease, else the first open one.

        Args:
            owner: who takes it, for people to read.
            seconds: duration of the lease; renew it in time.

        Returns:
            The shard, with the `lease_id` to renew and commit it; None if none is free.

        Raises:
            ValueError: seconds is not positive.
        """
        if seconds <= 0:
            raise ValueError(f"a lease needs a positive time, got {seconds} s")
        now = now or self._sessions.now()
        leased = {
            "state": ShardState.LEASED,
            "lease_owner": owner,
            "lease_expires_at": now + timedelta(seconds=seconds),
            "attempts": ShardRow.attempts + 1,
        }
        taken_over = leased | {"expiries": ShardRow.expiries + 1}
        expired = and_(ShardRow.state == ShardState.LEASED, ShardRow.lease_expires_at <= now)
        with self._sessions.session() as session:
            # Two queries, each by an index: one for both would scan every committed shard.
            shard = _take(session, run_id, expired, taken_over)
            if shard is None:
                shard = _take(session, run_id, ShardRow.state == ShardState.OPEN, leased)
            session.commit()
        return shard

    def renew(self, run_id: str, shard: int, lease_id: str, seconds: float) -> datetime:
        """Hold the lease for so many seconds from now.

        Returns:
            When it expires.

        Raises:
            LeaseLostError: another worker has the shard; stop working on it.
        """
        expires = self._sessions.now() + timedelta(seconds=seconds)
        self._change(run_id, shard, lease_id, lease_expires_at=expires)
        return expires

    def release(self, run_id: str, shard: int, lease_id: str) -> None:
        """Release a shard after a failure, so that it can be leased again at once.

        Raises:
            LeaseLostError: another worker has the shard.
        """
        free = {"state": ShardState.OPEN, "lease_id": None, "lease_expires_at": None}
        self._change(run_id, shard, lease_id, **free)

    def commit(
        self,
        run_id: str,
        shard: int,
        lease_id: str,
        *,
        masks: int,
        table_version: int | None,
        seconds: float,
    ) -> None:
        """Mark a shard as done, after its masks are in the mask table. Committing twice with
        the same lease keeps the first.

        Raises:
            LeaseLostError: another worker has the shard, or has committed it.
        """
        results = {"masks": masks, "table_version": table_version, "seconds": seconds}
        try:
            self._change(run_id, shard, lease_id, state=ShardState.COMMITTED, **results)
        except LeaseLostError:
            done = select(ShardRow.shard).where(
                *_leased(run_id, shard, lease_id), ShardRow.state == ShardState.COMMITTED
            )
            if self._sessions.value(done) is None:
                raise

    def _change(self, run_id: str, shard: int, lease_id: str, /, **values: Any) -> None:
        held = update(ShardRow).where(
            *_leased(run_id, shard, lease_id), ShardRow.state == ShardState.LEASED
        )
        if not self._sessions.change(held.values(**values)):
            raise LeaseLostError(f"the lease {lease_id} on shard {shard} of run {run_id} is lost")

    def remaining(self, run_id: str) -> int:
        """The number of the run's shards that are not committed."""
        query = _count(run_id).where(ShardRow.state != ShardState.COMMITTED)
        return self._sessions.value(query) or 0

    def expired(self, run_id: str) -> int:
        """How many leases of the run have run out and were not taken over yet: their workers are
        dead or frozen."""
        query = _count(run_id).where(
            ShardRow.state == ShardState.LEASED,
            ShardRow.lease_expires_at <= self._sessions.now(),
        )
        return self._sessions.value(query) or 0

    def leased_until(self, run_id: str) -> datetime | None:
        """The latest expiry of the run's leases, including expired ones that were not taken over;
        None without leases."""
        query = select(func.max(ShardRow.lease_expires_at)).where(
            ShardRow.run_id == run_id, ShardRow.state == ShardState.LEASED
        )
        return self._sessions.value(query)

    def planned_images(self, dataset_id: int, kind: RunKind) -> set[int]:
        """Ids of the dataset's images in shards of any run of this kind."""
        query = select(ShardRow.image_ids).join(RunRow, RunRow.id == ShardRow.run_id)
        query = query.where(RunRow.dataset_id == dataset_id, RunRow.kind == kind)
        with self._sessions.reading() as session:
            return _union(session, query)

    def committed_images(self, dataset_id: int, kind: RunKind, *, table_version: int) -> set[int]:
        """Ids of the dataset's images whose shard, of any run of this kind, is in that version of
        the mask table; without quarantined images."""
        query = select(ShardRow.image_ids).join(RunRow, RunRow.id == ShardRow.run_id)
        query = query.where(
            RunRow.dataset_id == dataset_id,
            RunRow.kind == kind,
            ShardRow.state == ShardState.COMMITTED,
            ShardRow.table_version <= table_version,
        )
        broken = select(QuarantineRow.image_id).where(QuarantineRow.dataset_id == dataset_id)
        with self._sessions.reading() as session:
            return _union(session, query).difference(session.scalars(broken))

    def totals(self, run_id: str) -> ShardTotals:
        """The run's progress."""
        is_committed = ShardRow.state == ShardState.COMMITTED
        images = func.json_array_length(ShardRow.image_ids)
        query = select(
            func.count().label("shards"),
            func.count().filter(is_committed).label("committed"),
            func.coalesce(func.sum(images), 0).label("images"),
            func.coalesce(func.sum(images).filter(is_committed), 0).label("committed_images"),
            func.coalesce(func.sum(ShardRow.masks), 0).label("masks"),
            func.coalesce(func.sum(ShardRow.seconds), 0.0).label("seconds"),
            func.max(ShardRow.table_version).label("table_version"),
        ).where(ShardRow.run_id == run_id)
        with self._sessions.reading() as session:
            return to_record(ShardTotals, session.execute(query).one())

    def all(self, run_id: str) -> list[Shard]:
        """The run's shards in their order."""
        query = select(ShardRow).where(ShardRow.run_id == run_id).order_by(ShardRow.shard)
        return self._sessions.records(Shard, query)


def _take(
    session: Session, run_id: str, is_free: ColumnElement[bool], values: dict[str, Any]
) -> Shard | None:
    """Lease the run's first free shard by setting `values`; None if there is none."""
    free = and_(ShardRow.run_id == run_id, is_free)
    first = select(ShardRow.shard).where(free).order_by(ShardRow.shard).limit(1)
    while (shard := session.scalar(first.with_for_update(skip_locked=True))) is not None:
        taken = update(ShardRow).where(free, ShardRow.shard == shard)
        if count_changed(session, taken.values(lease_id=new_id(), **values)):
            return to_record(Shard, session.get_one(ShardRow, (run_id, shard)))
        # else another worker was faster: try the next one
    return None


def _union(session: Session, query: Select[list[int]]) -> set[int]:
    """The ids in the lists of a query, read in parts."""
    found = session.scalars(query.execution_options(yield_per=PLAN_ROWS))
    return {image_id for ids in found for image_id in ids}


def _leased(run_id: str, shard: int, lease_id: str) -> tuple[ColumnElement[bool], ...]:
    return ShardRow.run_id == run_id, ShardRow.shard == shard, ShardRow.lease_id == lease_id


def _count(run_id: str) -> Any:
    return select(func.count()).select_from(ShardRow).where(ShardRow.run_id == run_id)


def _open_shard(run_id: str, shard: int, image_ids: Sequence[int]) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "shard": shard,
        "state": ShardState.OPEN,
        "image_ids": list(image_ids),
        "attempts": 0,
    }
