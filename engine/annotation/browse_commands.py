"""What can be done with masks and images that were chosen on the page Browse. Masks are never
changed: they get verdicts and successors, by tasks of a review run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from engine.annotation.browse import Browse
from engine.annotation.browse_schemas import ChosenMasks, Labelled, LabelledMasks, Queued
from engine.annotation.errors import RefusedError, not_found
from engine.annotation.schemas import Judgement, NewVerdict
from engine.annotation.submissions import Submissions
from engine.core.categories import NONE_OF_THESE
from engine.core.records import Stage
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Annotator,
    Catalog,
    Dataset,
    LabelSource,
    NewLabel,
    NewTask,
    NotFoundError,
    RunKind,
    TaskKind,
    VerdictKind,
    new_id,
)

LEASE_SECONDS = 600.0
REASON = "deleted while browsing"
"""Of the reject verdicts that `reject` gives."""


class BrowseCommands:
    """One per server. Thread-safe."""

    def __init__(
        self, catalog: Catalog, queue: AnnotationQueue, browse: Browse, submissions: Submissions
    ) -> None:
        self._catalog, self._queue = catalog, queue
        self._browse, self._submissions = browse, submissions

    def review(self, annotator: Annotator, dataset: Dataset, given: ChosenMasks) -> Queued:
        """Queue masks for review, without superseded and rejected ones and those that wait already.

        Raises:
            RefusedError: no mask is left.
        """
        mask_ids = self._chosen(dataset, given)
        waiting = self._catalog.verdicts.waiting_mask_ids(dataset.id)
        by_stage = self._by_stage(dataset, mask_ids - waiting)
        if not by_stage:
            raise _nothing("the masks are superseded, rejected, or wait for a review already")
        tasks = 0
        for stage, images in by_stage.items():
            payloads = {image: {"mask_ids": names} for image, names in images.items()}
            tasks += len(payloads)
            self._queue_run(dataset, stage, TaskKind.REVIEW, payloads)
        chosen = sum(len(names) for images in by_stage.values() for names in images.values())
        self._note(annotator, "review", dataset, chosen)
        return Queued(tasks=tasks, chosen=chosen, left_out=len(mask_ids) - chosen)

    def annotate(self, annotator: Annotator, dataset: Dataset, image_ids: Sequence[int]) -> Queued:
        """Queue images for annotators, without those that wait for them already. Masks that are
        neither superseded nor rejected are pre-filled: whoever rejects or corrects one gives a
        verdict on it.

        Raises:
            RefusedError: no image is left, or one is not of the dataset.
        """
        wanted = sorted(set(image_ids))
        try:
            images = self._catalog.images.get_many(wanted)
        except NotFoundError as error:
            raise not_found(f"you have no image {wanted[0]}") from error
        for image in images:
            if image.dataset_id != dataset.id:
                raise not_found(f"you have no image {image.id}")
        kinds = (TaskKind.ANNOTATE, TaskKind.COMPLETE)
        waiting = self._queue.waiting_images(dataset.id, kinds=kinds)
        left = [image_id for image_id in wanted if image_id not in waiting]
        if not left:
            raise _nothing("the images wait for annotators already")
        masks = self._browse.masks_on(dataset.id, left)
        empty: dict[int, dict[str, list[str]]] = {
            image_id: {} for image_id in left if not masks[image_id]
        }
        filled = {image_id: {"mask_ids": masks[image_id]} for image_id in left if masks[image_id]}
        self._queue_run(dataset, Stage.ASSISTED_MANUAL, TaskKind.ANNOTATE, empty)
        self._queue_run(dataset, Stage.SEMI_AUTOMATIC, TaskKind.COMPLETE, filled)
        self._note(annotator, "annotate", dataset, len(left))
        return Queued(tasks=len(left), chosen=len(left), left_out=len(wanted) - len(left))

    def reject(self, annotator: Annotator, dataset: Dataset, given: ChosenMasks) -> Queued:
        """Reject masks, as their reviewer would: releases and trainings leave them out.

        Raises:
            RefusedError: no mask is left, or it is superseded or rejected.
        """
        mask_ids = self._chosen(dataset, given)
        by_stage = self._by_stage(dataset, mask_ids)
        if not by_stage:
            raise _nothing("the masks are superseded or rejected already")
        tasks = chosen = 0
        for stage, images in by_stage.items():
            payloads = {image: {"mask_ids": names} for image, names in images.items()}
            run_id = self._queue_run(
                dataset, stage, TaskKind.REVIEW, payloads, reserved_for=annotator.id
            )
            while task := self._queue.lease(
                annotator.id, kinds=[TaskKind.REVIEW], seconds=LEASE_SECONDS, run_id=run_id
            ):
                verdicts = [
                    NewVerdict(
                        mask_id=mask_id, verdict=VerdictKind.REJECT, seconds=0.0, reason=REASON
                    )
                    for mask_id in task.payload["mask_ids"]
                ]
                judgement = Judgement(lease_id=str(task.lease_id), verdicts=verdicts)
                self._submissions.judge(annotator, task.id, judgement)
                tasks, chosen = tasks + 1, chosen + len(verdicts)
        self._note(annotator, "reject", dataset, chosen)
        return Queued(tasks=tasks, chosen=chosen, left_out=len(mask_ids) - chosen)

    def label(self, annotator: Annotator, dataset: Dataset, given: LabelledMasks) -> Labelled:
        """Label masks, each with the given category, with none, or with the one suggested for it.

        Raises:
            RefusedError: the dataset has no such category, or no mask is left.
        """
        chosen = self._chosen(dataset, given)
        known = self._browse.current_masks(dataset.id, sorted(chosen))
        listed = self._catalog.categories.current(dataset.id).categories
        if given.category is None:
            names = self._browse.suggested_of(dataset.id, list(known))
        elif given.category == NONE_OF_THESE or listed.named(given.category) is not None:
            names = dict.fromkeys(known, given.category)
        else:
            raise not_found(f"{dataset.name} has no category {given.category!r}")
        labels = []
        for mask_id, name in names.items():
            category = listed.named(name)
            if category is not None or name == NONE_OF_THESE:
                labels.append(
                    NewLabel(
                        mask_id=mask_id,
                        image_id=known[mask_id].image_id,
                        category_id=None if category is None else category.id,
                        source=LabelSource.ANNOTATOR,
                        annotator_id=annotator.id,
                        seconds=given.seconds / len(names),
                    )
                )
        if not labels:
            raise RefusedError(
                409,
                "nothing_chosen",
                "nothing was labelled: the masks are superseded or rejected, or nothing is "
                "suggested for them",
            )
        self._catalog.labels.add_many(dataset.id, labels)
        self._note(annotator, "label", dataset, len(labels))
        return Labelled(labelled=len(labels), left_out=len(chosen) - len(labels))

    def _chosen(self, dataset: Dataset, given: ChosenMasks) -> set[str]:
        of_images = self._browse.masks_on(dataset.id, given.image_ids)
        return {*given.mask_ids, *(name for names in of_images.values() for name in names)}

    def _by_stage(
        self, dataset: Dataset, mask_ids: Iterable[str]
    ) -> dict[Stage, dict[int, list[str]]]:
        """The masks by stage and image: a run's fixes are of one stage."""
        found = defaultdict[Stage, defaultdict[int, list[str]]](lambda: defaultdict(list))
        known = self._browse.current_masks(dataset.id, sorted(set(mask_ids)))
        for mask_id, (image_id, stage) in known.items():
            found[stage][image_id].append(mask_id)
        return {stage: dict(images) for stage, images in found.items()}

    def _queue_run(
        self,
        dataset: Dataset,
        stage: Stage,
        kind: TaskKind,
        payloads: dict[int, dict[str, list[str]]],
        reserved_for: int | None = None,
    ) -> str:
        """Start a run with one task per image; returns its id. Without images nothing is started.

        A review run commits the answers of tasks of any kind after the last one, with their
        verdicts.
        """
        run_id = new_id()
        if not payloads:
            return run_id
        model = self._catalog.models.current()
        if model is None:
            raise RefusedError(
                409, "no_model", "there is no current model; run `dataengine doctor`"
            )
        self._catalog.runs.start(
            run_id,
            RunKind.REVIEW,
            dataset_id=dataset.id,
            model=model.version,
            config={"stage": str(stage), "browse": str(kind)},
        )
        self._queue.add(
            [
                NewTask(
                    dataset_id=dataset.id,
                    image_id=image_id,
                    kind=kind,
                    run_id=run_id,
                    reserved_for=reserved_for,
                    payload=dict(payload),
                )
                for image_id, payload in payloads.items()
            ]
        )
        return run_id

    def _note(self, annotator: Annotator, command: str, dataset: Dataset, chosen: int) -> None:
        self._catalog.audit.add(
            f"browse_{command}", dataset.name, annotator_id=annotator.id, chosen=chosen
        )


def _nothing(why: str) -> RefusedError:
    return RefusedError(409, "nothing_chosen", f"nothing was queued: {why}")
