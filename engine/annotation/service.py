"""The rules of annotation tasks: who gets which task, how long leases last, how prompts are
answered. Independent of HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime

from engine.annotation.access import sight_of
from engine.annotation.browse import Browse
from engine.annotation.browse_commands import BrowseCommands
from engine.annotation.browse_history import MaskHistories
from engine.annotation.browse_names import SuggestionsOf
from engine.annotation.browse_search import FindMasks, Selected, SelectedBy
from engine.annotation.embeddings import EmbeddingCache
from engine.annotation.errors import RefusedError, invalid, lease_lost, not_found
from engine.annotation.gold import GoldRules, GoldTasks
from engine.annotation.like_regions import LikeRegions, Part
from engine.annotation.mask_labels import LabelsOf, MaskLabels, SuggestFor
from engine.annotation.own_day import OwnDay
from engine.annotation.own_work import FinishedWork
from engine.annotation.pictures import SCREEN_SIDE, Pictures
from engine.annotation.prompting import Prompter
from engine.annotation.schemas import (
    Draft,
    NextTaskView,
    PredictIn,
    Prediction,
    Suggestion,
    TaskView,
)
from engine.annotation.submissions import Submissions
from engine.annotation.task_access import TaskAccess
from engine.annotation.task_views import TaskViews
from engine.annotation.threads import Threads
from engine.annotation.tiles import TILED_FROM, Tiles
from engine.core.rle import RLE
from storage import layout
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Annotator,
    Catalog,
    CatalogError,
    LeaseLostError,
    NotFoundError,
    QuotaError,
    StaleStateError,
    Task,
    TaskKind,
    TaskResult,
    TaskState,
    new_id,
)
from storage.formats.images import BadImageError
from storage.masks import MaskTable, write_parquet
from storage.objects import ObjectStore

AHEAD = 3
"""Upcoming tasks whose images are prefetched."""


class AnnotationService:
    """One per server. Thread-safe."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        queue: AnnotationQueue,
        objects: ObjectStore,
        masks: MaskTable,
        embeddings: EmbeddingCache,
        pictures: Pictures,
        lease_seconds: float = 120,
        draft_seconds: float = 7200,
        on_drained: Callable[[str], None] = lambda run_id: None,
        gold_rules: Callable[[], GoldRules] = GoldRules,
        truths_of: Callable[[int], Sequence[RLE]] = lambda image_id: (),
        suggestions_of: SuggestionsOf = lambda dataset_id, key: None,
        labels_of: LabelsOf = lambda dataset_id, masks: {},
        suggest_for: SuggestFor = lambda dataset_id, image_id, masks: {},
        find: FindMasks = lambda dataset_id, words, like, count: (),
        selected_by: SelectedBy = lambda dataset_id, run: Selected(),
    ) -> None:
        """
        Args:
            lease_seconds: how long a task stays with a page that sends no heartbeat.
            draft_seconds: the same for a task with a draft.
            on_drained: called with the id of a run after its last task was submitted.
            gold_rules: returns when tasks are gold; never by default.
            truths_of: returns the true masks of a gold image by its id.
            suggestions_of: returns suggested categories of a dataset's masks.
            find: searches for masks.
            selected_by: returns what a run of a program selected.
            labels_of: returns labels of a task's masks.
            suggest_for: returns suggested categories of a task's masks.
        """
        self.catalog, self.queue, self.objects = catalog, queue, objects
        self.embeddings, self.pictures = embeddings, pictures
        self.regions = LikeRegions(pictures.pixels_of)
        self.tiles = Tiles(pictures.pixels_of)
        self.prompter = Prompter(embeddings)
        self.access = TaskAccess(catalog, queue)
        self.gold = GoldTasks(catalog, queue, objects, gold_rules, truths_of)
        self.labels = MaskLabels(catalog, labels_of, suggest_for)
        self.views = TaskViews(catalog, queue, objects, masks, self.gold, self.labels)
        self.submissions = Submissions(
            catalog, queue, objects, masks, self.views, self.gold, self.labels, on_drained
        )
        self.threads = Threads(catalog, queue)
        self.browse = Browse(catalog, masks, objects, suggestions_of, find, selected_by)
        self.histories = MaskHistories(catalog, masks, objects)
        self.commands = BrowseCommands(catalog, queue, self.browse, self.submissions)
        self.finished = FinishedWork(catalog, queue, objects, masks, lease_seconds)
        self.own_day = OwnDay(catalog, queue, self.gold)
        self.lease_seconds = lease_seconds
        self.draft_seconds = max(draft_seconds, lease_seconds)

    # tasks

    def next_task(
        self, annotator: Annotator, kinds: Collection[TaskKind], dataset: str | None = None
    ) -> NextTaskView:
        """The task the annotator holds, else the next free one, with its image ready.

        Raises:
            RefusedError: the role may not take such tasks, or the annotator sees no such dataset.
        """
        self.access.check_kinds(annotator, kinds)
        dataset_ids = self.access.datasets(annotator, dataset)
        task = self.queue.held(annotator.id, kinds=kinds)
        if task is not None and not sight_of(annotator).includes(task.dataset_id):
            task = None
        while task is None:
            self.gold.offer(annotator, kinds, dataset_ids)
            task = self.queue.lease(
                annotator.id, kinds=kinds, seconds=self.lease_seconds, dataset_ids=dataset_ids
            )
            if task is None and self.submissions.returns.free_absent():
                continue
            if task is None:
                return NextTaskView(task=None, waiting=0)
            if not self._is_ready(task):
                task = None
        view = self.views.view(task, annotator)
        self.prefetch(kinds, dataset_ids)
        return NextTaskView(task=view, waiting=view.waiting)

    def take(self, annotator: Annotator, task_id: int) -> None:
        """Lease a task that the annotator has chosen, with its image ready.

        Raises:
            RefusedError: as `OwnDay.take`, or the image cannot be read.
        """
        task = self.own_day.take(annotator, task_id, self.lease_seconds)
        if not self._is_ready(task):
            raise not_found("this image cannot be read and has left the queue; choose another one")

    def view(self, annotator: Annotator, task_id: int) -> TaskView:
        """A task that the annotator holds.

        Raises:
            RefusedError: no such task, or somebody else holds it.
        """
        return self.views.view(self._held(annotator, task_id), annotator)

    def suggestions(self, annotator: Annotator, task_id: int) -> list[Suggestion]:
        """The categories suggested for the masks of a task that the annotator holds. Masks without
        vectors are encoded first, so it can take seconds.

        Raises:
            RefusedError: no such task, or somebody else holds it.
        """
        task = self._held(annotator, task_id)
        return self.labels.suggestions(task, self.views.initial_masks(task))

    def _held(self, annotator: Annotator, task_id: int) -> Task:
        task = self.access.seen_task(annotator, task_id)
        if task.annotator_id != annotator.id or task.state != TaskState.LEASED:
            raise not_found(f"you do not hold task {task_id}")
        return task

    def heartbeat(self, annotator: Annotator, task_id: int, lease_id: str) -> datetime:
        """Renew the lease on the task; returns when it expires.

        Raises:
            RefusedError: the lease is lost.
        """
        self.access.held(annotator, task_id, lease_id)
        has_draft = self.catalog.drafts.has(task_id, annotator.id)
        seconds = self.draft_seconds if has_draft else self.lease_seconds
        try:
            return self.queue.renew(task_id, lease_id, seconds)
        except LeaseLostError as error:
            raise lease_lost(task_id) from error

    def give_back(self, annotator: Annotator, task_id: int, lease_id: str, *, skip: bool) -> None:
        """Return the task to the queue: to the back (`skip`) or to its place.

        Raises:
            RefusedError: the lease is lost.
        """
        task = self.access.held(annotator, task_id, lease_id)
        try:
            state = (self.queue.skip if skip else self.queue.release)(task_id, lease_id)
            if skip and "return_of" in task.payload:
                self.queue.unreserve_returns(str(task.run_id))
            if state != TaskState.OPEN:  # skipped for good, or submitted as before
                self.submissions.close(self.access.task(task_id))
        except LeaseLostError as error:
            raise lease_lost(task_id) from error

    def keep_draft(self, annotator: Annotator, task_id: int, lease_id: str, draft: Draft) -> Draft:
        """Store unfinished work, and renew the lease for `draft_seconds`.

        Raises:
            RefusedError: the lease is lost, a later draft is stored, or the quota is exceeded.
        """
        self.access.held(annotator, task_id, lease_id)
        try:
            self.catalog.drafts.keep(task_id, annotator.id, draft.version, draft.data)
            self.queue.renew(task_id, lease_id, self.draft_seconds)
        except LeaseLostError as error:
            raise lease_lost(task_id) from error
        except StaleStateError as error:
            raise RefusedError(409, "draft_outdated", str(error)) from error
        except QuotaError as error:
            raise RefusedError(413, "draft_quota", str(error)) from error
        except ValueError as error:  # e.g. NaN
            raise invalid(f"the draft cannot be stored: {error}") from error
        return draft

    def prefetch(
        self, kinds: Collection[TaskKind], dataset_ids: Collection[int] | None = None
    ) -> None:
        """Make the images of the next tasks ready in the background."""
        for task in self.queue.upcoming(kinds=kinds, limit=AHEAD, dataset_ids=dataset_ids):
            model = self.views.context(task).model
            self.embeddings.prefetch(model, [task.image_id], self._draw_ahead)

    def _draw_ahead(self, image_id: int) -> None:
        """Make what the page shows of an image."""
        image = self.catalog.images.get(image_id)
        self.pictures.get(image_id, SCREEN_SIDE)
        if max(image.height, image.width) > TILED_FROM:
            self.tiles.of(image_id)

    # prompts

    def predict(self, annotator: Annotator, task_id: int, given: PredictIn) -> Prediction:
        """Predict masks for a prompt on the task's image.

        Raises:
            RefusedError: the lease is lost, or the prompt is empty.
        """
        task = self.access.held(annotator, task_id, given.lease_id)
        context = self.views.context(task)
        return self.prompter.predict(task_id, context.model, context.image_id, given)

    # images

    def picture(
        self,
        annotator: Annotator,
        image_id: int,
        side: int | None,
        between: tuple[float, float] | None = None,
    ) -> bytes:
        """An image as JPEG, for reviewers and the holder of a task on it. `between`: percentiles
        of the stored values that become black and white.

        Raises:
            RefusedError: the image is missing, or the annotator may not see it.
        """
        with self._seen_image(annotator, image_id):
            return self.pictures.get(image_id, side, between)

    def regions_of(
        self,
        annotator: Annotator,
        image_id: int,
        part: Part,
        between: tuple[float, float] | None = None,
    ) -> bytes:
        """Regions of like pixels in a part of an image, compressed; for whom `picture` is.

        Raises:
            RefusedError: as for `picture`, or the part is not inside the image.
        """
        with self._seen_image(annotator, image_id):
            return self.regions.get(image_id, part, between)

    def thumbnail(self, annotator: Annotator, image_id: int, side: int) -> bytes:
        """The same, also for those who may choose the image from the queue.

        Raises:
            RefusedError: as `picture`.
        """
        if not self.own_day.may_take(annotator, image_id):
            return self.picture(annotator, image_id, side)
        with _readable(image_id):
            return self.pictures.get(image_id, side)

    def tile(
        self,
        annotator: Annotator,
        image_id: int,
        place: tuple[int, int, int],
        between: tuple[float, float] | None = None,
    ) -> bytes:
        """A tile, by level, column and row, of a large image as JPEG; for whom `picture` is.

        Raises:
            RefusedError: as for `picture`, or there is no such tile.
        """
        with self._seen_image(annotator, image_id):
            return self.tiles.get(image_id, *place, between)

    @contextlib.contextmanager
    def _seen_image(self, annotator: Annotator, image_id: int) -> Iterator[None]:
        if not self.access.may_see(annotator, image_id):
            raise not_found(f"you have no image {image_id}")
        with _readable(image_id):
            yield

    def _is_ready(self, task: Task) -> bool:
        """Whether a task just taken can be worked on. If the image or the model is unavailable, the
        task is released and the error raised."""
        try:
            return self._make_ready(task)
        except BaseException:
            with contextlib.suppress(CatalogError):  # else the lease expires
                self.queue.release(task.id, str(task.lease_id))
            raise

    def _make_ready(self, task: Task) -> bool:
        """Load the task's image. False if the stored bytes are not a readable image: the image is
        quarantined, and the task submitted without masks."""
        context = self.views.context(task)
        try:
            self.embeddings.get(context.model, task.image_id)
            return True
        except BadImageError as error:
            image = self.catalog.images.get(task.image_id)
            self.catalog.quarantine.add_image(image, error, stage=context.provenance.stage)
            key = layout.ANSWER.key(run=task.run_id, task=task.id, attempt=new_id())
            self.objects.put(key, write_parquet([]))
            result = TaskResult(quarantined=str(error))
            self.submissions.close(self.queue.submit(task.id, str(task.lease_id), key, result))
            return False


@contextlib.contextmanager
def _readable(image_id: int) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, BadImageError) as error:
        raise not_found(f"image {image_id}: {error}") from error
