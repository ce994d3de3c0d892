"""Comments of annotators and reviewers on places of an image: its thread."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import func, select, update

from storage.catalog.errors import QuotaError
from storage.catalog.sessions import Repository, to_record
from storage.catalog.thread_tables import CommentRow

MAX_COMMENTS = 500
"""Comments on one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewComment:
    """A comment that was written in a task. x and y: its place in pixels of the original image; an
    answer has none. `author`: the annotator's id."""

    dataset_id: int
    image_id: int
    task_id: int
    author: int
    text: str
    mask_id: str | None = None
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comment:
    """A stored comment. `resolved_at`: when a reviewer judged the image after it came back."""

    id: int
    dataset_id: int
    image_id: int
    task_id: int
    mask_id: str | None
    x: float | None
    y: float | None
    author: int
    text: str
    created_at: datetime
    resolved_at: datetime | None


class Comments(Repository):
    """Reached as `catalog.comments`."""

    def add(self, comment: NewComment) -> Comment:
        """Add a comment to the thread of its image.

        Raises:
            QuotaError: the image has MAX_COMMENTS comments.
            ConstraintError: no such dataset, image, task or annotator.
        """
        mine = select(func.count()).where(CommentRow.image_id == comment.image_id)
        with self._sessions.session() as session:
            if (session.scalar(mine) or 0) >= MAX_COMMENTS:
                raise QuotaError(f"the image has {MAX_COMMENTS} comments, and that is the most")
            row = CommentRow(**asdict(comment), created_at=self._sessions.now())
            session.add(row)
            session.commit()
            return to_record(Comment, row)

    def of_image(self, image_id: int) -> list[Comment]:
        """The thread of an image, oldest first."""
        query = select(CommentRow).where(CommentRow.image_id == image_id)
        return self._sessions.records(Comment, query.order_by(CommentRow.id))

    def resolve(self, image_id: int) -> int:
        """Mark the open comments of an image as resolved; returns their number."""
        mine = (CommentRow.image_id == image_id, CommentRow.resolved_at.is_(None))
        done = update(CommentRow).where(*mine)
        return self._sessions.change(done.values(resolved_at=self._sessions.now()))
