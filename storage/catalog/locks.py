"""Locks: work that only one process may do at a time, such as a step of a dataset's loop.

A lock is a lease under a name. Its holder renews it; after the lease expires, another process may
take it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, select, update

from storage.catalog.errors import LeaseLostError
from storage.catalog.sessions import Repository, count_changed, insert_new, new_id
from storage.catalog.tables import LockRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A held lock. `owner` is for people to read."""

    name: str
    lease_id: str
    owner: str
    expires_at: datetime


class Locks(Repository):
    """Reached as `catalog.locks`."""

    def take(self, name: str, owner: str, seconds: float) -> Lock | None:
        """Take a lock that is free or expired.

        Args:
            owner: who takes it, for people to read.
            seconds: duration; renew it in time.

        Returns:
            The lock, with the `lease_id` to renew and release it; None if somebody else has it.
        """
        now = self._sessions.now()
        lock = Lock(
            name=name,
            lease_id=new_id(),
            owner=owner,
            expires_at=now + timedelta(seconds=seconds),
        )
        values = asdict(lock)
        expired = and_(LockRow.name == name, LockRow.expires_at <= now)
        with self._sessions.session() as session:
            taken = bool(insert_new(session, LockRow, [values])) or bool(
                count_changed(session, update(LockRow).where(expired).values(**values))
            )
            session.commit()
        return lock if taken else None

    def renew(self, lock: Lock, seconds: float) -> None:
        """Renew the lock for this many seconds from now.

        Raises:
            LeaseLostError: somebody else has it.
        """
        expires = self._sessions.now() + timedelta(seconds=seconds)
        held = and_(LockRow.name == lock.name, LockRow.lease_id == lock.lease_id)
        changed = self._sessions.change(update(LockRow).where(held).values(expires_at=expires))
        if not changed:
            raise LeaseLostError(f"somebody else now holds the lock {lock.name}")

    def release(self, lock: Lock) -> None:
        """Release the lock; does nothing if somebody else has it."""
        held = and_(LockRow.name == lock.name, LockRow.lease_id == lock.lease_id)
        self._sessions.change(delete(LockRow).where(held))

    def holder(self, name: str) -> Lock | None:
        """The lock as it is held; None if it is free or expired."""
        query = select(LockRow).where(
            LockRow.name == name, LockRow.expires_at > self._sessions.now()
        )
        return self._sessions.first(Lock, query)
