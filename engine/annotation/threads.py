"""Comments on images: who may read a thread, and who adds to it."""

from __future__ import annotations

from engine.annotation.access import sight_of
from engine.annotation.errors import RefusedError, invalid, not_found
from engine.annotation.schemas import CommentIn, CommentView
from engine.annotation.task_access import TaskAccess
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Annotator,
    Catalog,
    Comment,
    NewComment,
    NotFoundError,
    QuotaError,
)


class Threads:
    """The threads of a catalog's images. Thread-safe."""

    def __init__(self, catalog: Catalog, queue: AnnotationQueue) -> None:
        self._catalog, self._queue = catalog, queue
        self._access = TaskAccess(catalog, queue)

    def of_image(self, annotator: Annotator, image_id: int) -> list[CommentView]:
        """The comments on an image, oldest first, for reviewers of its dataset, and for those who
        work or have worked on it.

        Raises:
            RefusedError: no such image that they may see.
        """
        if not self._may_read(annotator, image_id):
            raise not_found(f"you have no image {image_id}")
        found = self._catalog.comments.of_image(image_id)
        people = {author: self._catalog.annotators.get(author) for author in _authors(found)}
        return [_view(comment, people[comment.author], annotator) for comment in found]

    def _may_read(self, annotator: Annotator, image_id: int) -> bool:
        try:
            image = self._catalog.images.get(image_id)
        except NotFoundError:
            return False
        if not sight_of(annotator).includes(image.dataset_id):
            return False
        is_reviewer = annotator.role in ("reviewer", "admin")
        return is_reviewer or self._queue.has_worked(annotator.id, image_id)

    def add(self, annotator: Annotator, task_id: int, given: CommentIn) -> CommentView:
        """Add a comment to the image of a task that the annotator holds.

        Raises:
            RefusedError: the lease is lost, the place is outside the image, the mask is not the
                task's, or the thread is full.
        """
        task = self._access.held(annotator, task_id, given.lease_id)
        image = self._catalog.images.get(task.image_id)
        _check_place(given, image.width, image.height)
        if given.mask_id is not None and given.mask_id not in task.payload.get("mask_ids", []):
            raise invalid(f"not a mask of this task: {given.mask_id!r}")
        comment = NewComment(
            dataset_id=task.dataset_id,
            image_id=task.image_id,
            task_id=task.id,
            author=annotator.id,
            text=given.text.strip(),
            mask_id=given.mask_id,
            x=given.x,
            y=given.y,
        )
        try:
            added = self._catalog.comments.add(comment)
        except QuotaError as error:
            raise RefusedError(413, "comment_quota", str(error)) from error
        self._catalog.audit.add("comment", f"task {task.id}", annotator_id=annotator.id)
        return _view(added, annotator, annotator)


def _authors(comments: list[Comment]) -> set[int]:
    return {comment.author for comment in comments}


def _check_place(given: CommentIn, width: int, height: int) -> None:
    if given.x is None and given.y is None:
        return
    if given.x is None or given.y is None:
        raise invalid("a place needs both x and y")
    if not (0 <= given.x < width and 0 <= given.y < height):
        raise invalid(
            f"({given.x:g}, {given.y:g}) is outside the image of {width} x {height} pixels"
        )


def _view(comment: Comment, author: Annotator, reader: Annotator) -> CommentView:
    return CommentView(
        id=comment.id,
        task_id=comment.task_id,
        mask_id=comment.mask_id,
        x=comment.x,
        y=comment.y,
        author=author.name,
        is_mine=author.id == reader.id,
        text=comment.text,
        created_at=comment.created_at,
        resolved_at=comment.resolved_at,
    )
