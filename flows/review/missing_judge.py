"""A few-shot judge of whether an object of an image lacks a mask.

It learns from annotators who saw images with masks and could add others: those of stage 2, and of
images that were sent to annotators from the page Browse. Images where an object is surely missing
go to annotators first, those where none is are marked as complete (`Image.complete_run`), and the
rest goes to annotators too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from prefect import flow

from engine.core.batches import batches
from engine.core.overlay import draw_masks
from engine.core.records import Mask, Source, Stage
from engine.core.rle import RLE, iou_matrix
from engine.verifier.few_shot import ANY_MISSING, Question
from flows.review.answer_routing import AnswerRouting, Answers, Sorted
from flows.review.few_shot_judge import About, FewShotJudge, Known
from flows.review.model_routing import (
    ASK,
    DROP,
    PASS,
    peoples_run,
)
from flows.review.route_options import RouteOptions
from flows.stages.seen_masks import IMAGES_AT_ONCE
from flows.workspace import progress
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Dataset, Image, NewTask, Run, Task, TaskKind, TaskState
from storage.formats.images import BadImageError
from storage.masks import read_parquet
from storage.objects import named_by_catalog

SIDE = 512
"""Largest side of the pictures of images that the language model sees, in pixels."""
FILLING = 0.25
"""Opacity of a mask's colour in them."""
CORRECTED_IOU = 0.5
"""A drawn mask that overlaps one that was there by this corrects it, and adds no object."""
MISSING_FIRST = 1
"""Priority of the tasks on images where an object is surely missing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An image with the masks that an annotator saw, and how many objects they added."""

    image_id: int
    shown: list[Mask]
    added: int


class MissingJudge(FewShotJudge):
    """Says whether an object of an image is missing."""

    about = About.MISSING
    option = " --missing"

    @staticmethod
    def answers(workspace: Workspace, dataset: Dataset) -> int:
        """See FewShotJudge."""
        return len({task.image_id for task in workspace.queue.completed(dataset.id)})

    @staticmethod
    def too_few(dataset: str, known: int) -> str:
        """See FewShotJudge."""
        return (
            f"people have completed {known} images of dataset {dataset!r} that had masks; finish a "
            "round of stage 2, or send images with masks to annotators on the page Browse"
        )

    def _read_known(self) -> Known:
        by_image: dict[int, list[np.ndarray]] = defaultdict(list)
        for mask_id, image_id in self._image_of.items():
            by_image[image_id].append(self._vectors[mask_id])
        self._means = {image_id: _mean(vectors) for image_id, vectors in by_image.items()}
        seen = [one for one in seen_images(self._workspace, self._dataset) if one.shown]
        self._seen = [one for one in seen if one.image_id in self._means]
        return self._known_rows(
            [(self._means[one.image_id], one.image_id) for one in self._seen],
            [one.added > 0 for one in self._seen],
            [_told(one.added) for one in self._seen],
        )

    def _cut(self, row: int) -> np.ndarray:
        one = self._seen[row]
        image = self._workspace.catalog.images.get(one.image_id)
        return self._draw(image, [mask.rle for mask in one.shown])

    def _draw(self, image: Image, rles: Sequence[RLE]) -> np.ndarray:
        return draw_masks(self._workspace.pixels(image), rles, max_side=SIDE, alpha=FILLING)

    def _question(self, topic: int) -> Question:
        return ANY_MISSING

    def knows(self, image_id: int) -> bool:
        """Whether masks of the image have vectors."""
        return image_id in self._means

    def judged(self, image: Image, masks: Sequence[Mask]) -> np.ndarray:
        """Return the probability that an object has none of an image's masks, float64 (1,).

        Raises:
            BadImageError: the image cannot be read.
        """
        picture = self._draw(image, [mask.rle for mask in masks])
        score = self._ask(self._means[image.id], image.near_image_id or image.id, picture)
        return self.probabilities([score])


def _mean(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return the direction of the mean of vectors, float32."""
    found = np.mean(np.stack(vectors).astype(np.float32), axis=0)
    return np.asarray(found / max(float(np.linalg.norm(found)), 1e-12))


def _told(added: int) -> str:
    return f"{added} {'is' if added == 1 else 'are'}" if added else ""


def seen_images(workspace: Workspace, dataset: Dataset) -> Iterator[Seen]:
    """Yield what annotators saw and added, the last time that they completed each image, by id."""
    tasks = {task.image_id: task for task in workspace.queue.completed(dataset.id)}
    for part in batches(sorted(tasks), IMAGES_AT_ONCE):
        masks: dict[int, list[Mask]] = {image_id: [] for image_id in part}
        for mask in workspace.masks.masks(dataset=dataset.name, image_ids=part):
            masks[mask.image_id].append(mask)
        for image_id in part:
            task, known = tasks[image_id], masks[image_id]
            shown = [mask for mask in _shown(workspace, task, known) if mask.area]
            ids = {mask.mask_id for mask in shown}
            drawn = [
                mask
                for mask in known
                if mask.run_id == task.run_id
                and mask.source == Source.ANNOTATOR
                and mask.area
                and mask.supersedes not in ids
            ]
            yield Seen(image_id, shown, _added(drawn, shown))


def _shown(workspace: Workspace, task: Task, known: Sequence[Mask]) -> list[Mask]:
    if "prefill" in task.payload:
        with named_by_catalog():
            return read_parquet(workspace.objects.get(str(task.payload["prefill"])))
    ids = set(task.payload.get("mask_ids", ()))
    return [mask for mask in known if mask.mask_id in ids]


def _added(drawn: Sequence[Mask], shown: Sequence[Mask]) -> int:
    """Return how many drawn masks correct none that was there."""
    if not drawn or not shown:
        return len(drawn)
    overlap = iou_matrix([mask.rle for mask in drawn], [mask.rle for mask in shown])
    return int((overlap.max(axis=1) < CORRECTED_IOU).sum())


class MissingRouting(AnswerRouting[list[Mask]]):
    """Marks complete images, and queues the others for annotators."""

    judge: MissingJudge

    def peoples_config(self) -> dict[str, Any]:
        """See AnswerRouting: what annotators draw is of stage 2."""
        return {"stage": str(Stage.SEMI_AUTOMATIC)}

    def answers(self) -> Iterator[Answers[list[Mask]]]:
        """See AnswerRouting: images with masks, without rejected ones."""
        workspace = self.workspace
        rejected = workspace.catalog.verdicts.rejected_mask_ids(self.dataset.id)
        images = self._wanted()
        with progress.current().track("ask about images", len(images), "image") as advance:
            for part in batches(images, IMAGES_AT_ONCE):
                masks: dict[int, list[Mask]] = {}
                for mask in workspace.masks.masks(
                    dataset=self.dataset.name, image_ids=part, current_only=True
                ):
                    if mask.area and mask.mask_id not in rejected:
                        masks.setdefault(mask.image_id, []).append(mask)
                for image in workspace.catalog.images.get_many(sorted(masks)):
                    some = masks[image.id]
                    try:
                        yield Answers(image.id, [some], self.judge.judged(image, some))
                    except BadImageError:  # the next stage that reads it quarantines it
                        continue
                advance(len(part))

    def _wanted(self) -> list[int]:
        """Return the images with masks that nobody has completed or will complete. Gold images
        are not asked about: annotators get them as gold tasks."""
        workspace, dataset = self.workspace, self.dataset
        counts = workspace.masks.counts(("image_id",), dataset=dataset.name, current_only=True)
        found = {int(str(key[0])) for key in counts}
        found -= workspace.catalog.images.complete_ids(dataset.id)
        found -= set(workspace.catalog.gold.image_ids(dataset.id))
        found -= workspace.queue.waiting_images(
            dataset.id, kinds=(TaskKind.ANNOTATE, TaskKind.COMPLETE)
        )
        found -= workspace.queue.images(
            dataset.id, kinds=(TaskKind.COMPLETE,), states=(TaskState.SUBMITTED,)
        )
        return sorted(image_id for image_id in found if self.judge.knows(image_id))

    def act(self, run_id: str, found: Sorted[list[Mask]]) -> NewTask | None:
        """See AnswerRouting."""
        if found.ways[DROP]:
            self.workspace.catalog.images.mark_complete(found.image_id, run_id)
            return None
        is_missing = bool(found.ways[PASS])
        [(masks, _)] = found.ways[PASS] + found.ways[ASK]
        return NewTask(
            dataset_id=self.dataset.id,
            image_id=found.image_id,
            kind=TaskKind.COMPLETE,
            run_id=peoples_run(run_id),
            priority=MISSING_FIRST if is_missing else 0,
            payload={"mask_ids": [mask.mask_id for mask in masks]},
        )

    def counts(self, run: Run, tasks: Sequence[Task]) -> Counter[int]:
        """See AnswerRouting."""
        complete = self.workspace.catalog.images.complete_ids(self.dataset.id, run_id=run.id)
        missing = sum(task.priority == MISSING_FIRST for task in tasks)
        return Counter({PASS: missing, DROP: len(complete), ASK: len(tasks) - missing})


@flow(name="judge-missing")
def judge_missing(
    workspace: str,
    dataset: str,
    precision: float,
    dry_run: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Prefect flow: let the calibrated judge say which images are complete and where an object is
    missing, and send the others to annotators; returns what `AnswerRouting.route` does.

    Raises:
        JudgeError: it is not calibrated, or switched off.
        RouteError: no threshold reaches the precision.
    """
    asked = RouteOptions(precision=precision)
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    judge = MissingJudge.ready(opened, row, options)
    return MissingRouting(opened, row, judge, asked).route(dry_run=dry_run)
