"""Sign-ins: the sessions of the annotation page, by the hash of their secret token."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, select

from storage.catalog.annotators import Annotator
from storage.catalog.sessions import Repository, insert_new, to_record
from storage.catalog.tables import AnnotatorRow, SignInRow


class SignIns(Repository):
    """Reached as `catalog.sign_ins`. Only hashes are stored; the browsers have the tokens."""

    def start(self, annotator_id: int, token_hash: str, seconds: float) -> None:
        """Store a sign-in for this many seconds, and delete expired ones.

        Raises:
            ConstraintError: no such annotator.
        """
        now = self._sessions.now()
        row = {
            "token_hash": token_hash,
            "annotator_id": annotator_id,
            "created_at": now,
            "expires_at": now + timedelta(seconds=seconds),
        }
        with self._sessions.session() as session:
            session.execute(delete(SignInRow).where(SignInRow.expires_at <= now))
            insert_new(session, SignInRow, [row])
            session.commit()

    def find(self, token_hash: str) -> Annotator | None:
        """The annotator signed in with the token of this hash; None if none is, or it expired."""
        return self.find_all([token_hash]).get(token_hash)

    def find_all(self, token_hashes: Collection[str]) -> dict[str, Annotator]:
        """The same for several, by hash; hashes without a sign-in are left out."""
        query = (
            select(SignInRow.token_hash, AnnotatorRow)
            .join(AnnotatorRow, SignInRow.annotator_id == AnnotatorRow.id)
            .where(
                SignInRow.token_hash.in_(token_hashes),
                SignInRow.expires_at > self._sessions.now(),
                AnnotatorRow.disabled_at.is_(None),
            )
        )
        with self._sessions.reading() as session:
            return {hash_: to_record(Annotator, row) for hash_, row in session.execute(query)}

    def has(self, annotator_id: int) -> bool:
        """Whether the annotator is signed in somewhere."""
        now = self._sessions.now()
        mine = (SignInRow.annotator_id == annotator_id, SignInRow.expires_at > now)
        return self._sessions.value(select(SignInRow.token_hash).where(*mine).limit(1)) is not None

    def active(self) -> set[int]:
        """Ids of the annotators who are signed in somewhere."""
        query = select(SignInRow.annotator_id).where(SignInRow.expires_at > self._sessions.now())
        return set(self._sessions.values(query.distinct()))

    def end(self, token_hash: str) -> None:
        """Sign out; does nothing if the sign-in does not exist."""
        self._delete(SignInRow.token_hash == token_hash)

    def end_all(self, annotator_id: int) -> None:
        """Sign an annotator out everywhere."""
        self._delete(SignInRow.annotator_id == annotator_id)

    def _delete(self, which: object) -> None:
        self._sessions.change(delete(SignInRow).where(which))  # type: ignore[arg-type]
