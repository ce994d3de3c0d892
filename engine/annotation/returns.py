"""Images that a reviewer returns to the annotator who made their masks.

A return is a review run of its own with two tasks: the annotator corrects the masks, then the
reviewer judges the result. `flows.review.returned` queues the second task.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence

from engine.annotation.access import sight_of
from engine.annotation.errors import invalid
from engine.annotation.presence import is_away
from engine.annotation.task_views import initial_masks
from engine.core.records import Mask
from storage import layout
from storage.annotation_queue import AnnotationQueue
from storage.catalog import Annotator, Catalog, Comment, NewTask, RunKind, Task, TaskKind, new_id
from storage.masks import MaskTable, write_parquet
from storage.objects import ObjectStore


class Returns:
    """Returned images of one workspace. Thread-safe."""

    def __init__(
        self, catalog: Catalog, queue: AnnotationQueue, objects: ObjectStore, masks: MaskTable
    ) -> None:
        self._catalog, self._queue, self._objects = catalog, queue, objects
        self._masks = masks

    def check(self, annotator: Annotator, task: Task) -> None:
        """Check that a reviewer can return the image of this review task.

        Raises:
            RefusedError: the review is an audit's or compares versions, or the reviewer has not
                said what is to be done.
        """
        if "prefill" in task.payload:
            raise invalid("this review compares versions of an image: pick or fix their masks")
        if "audit_of" in self._catalog.runs.get(str(task.run_id)).config:
            raise invalid("an audit's masks are not returned: accept, fix or reject each")
        if not any(comment.author == annotator.id for comment in self._comments(task)):
            raise invalid("first pin a comment on the image that says what to fix")

    def queue(self, task: Task) -> None:
        """Queue the correction of a review task that was returned; repeated, it changes nothing."""
        run_id = uuid.uuid5(uuid.NAMESPACE_URL, f"return/{task.id}").hex
        if self._queue.of_run(run_id):
            return
        masks = initial_masks(self._objects, self._masks, task)
        maker = self._maker(task, masks)
        stage = {"stage": str(masks[0].stage)} if masks else {}
        names = [mask.mask_id for mask in masks]
        self._catalog.runs.start(
            run_id,
            RunKind.REVIEW,
            dataset_id=task.dataset_id,
            model=self._catalog.runs.get(str(task.run_id)).model,
            config={"return_of": task.id, "reviewer": task.annotator_id, **stage},
        )
        key = layout.PREFILL.key(run=run_id, name=new_id())
        self._objects.put(key, write_parquet(masks))
        correction = NewTask(
            dataset_id=task.dataset_id,
            image_id=task.image_id,
            kind=TaskKind.COMPLETE if masks else TaskKind.ANNOTATE,
            run_id=run_id,
            reserved_for=None if maker is None else maker.id,
            payload={
                "prefill": key,
                "mask_ids": names,
                "return_of": task.id,
                "note": "A reviewer returned this image. Correct the masks, or answer why not.",
            },
        )
        self._queue.add([correction])

    def free_absent(self) -> int:
        """Let everybody take the open tasks that are returned or assigned to somebody who is away;
        returns their number."""
        freed = 0
        for annotator_id in self._queue.reserved():
            person = self._catalog.annotators.get(annotator_id)
            if is_away(self._catalog, self._queue, person):
                freed += self._queue.unreserve(annotator_id=annotator_id)
        return freed

    def _comments(self, task: Task) -> list[Comment]:
        thread = self._catalog.comments.of_image(task.image_id)
        return [comment for comment in thread if comment.task_id == task.id]

    def _maker(self, task: Task, masks: Sequence[Mask]) -> Annotator | None:
        """The annotator of most of the masks with a comment, else of most masks, who can still be
        asked; None if there is none."""
        pinned = {comment.mask_id for comment in self._comments(task)}
        named = Counter(mask.annotator for mask in masks if mask.mask_id in pinned)
        others = Counter(mask.annotator for mask in masks)
        for name, _ in (*named.most_common(), *others.most_common()):
            person = None if name is None else self._catalog.annotators.find(name)
            if person is None or not sight_of(person).includes(task.dataset_id):
                continue
            if not is_away(self._catalog, self._queue, person):
                return person
        return None
