"""Gold tasks: images whose true masks are known, mixed unseen into an annotator's tasks.

A gold task takes the place and the id of the annotator's next task, and looks like it: the same
kind, dataset, stage, round and model, with pre-filled masks where that task has some. Its answer is
scored and never committed. All gold tasks of an annotator on a dataset are tasks of one run.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from engine.core.rle import RLE
from engine.evaluation.gold import GoldScore, score_answer
from storage import layout
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    GOLD,
    Annotator,
    Catalog,
    ConstraintError,
    NewGoldScore,
    NewTask,
    RunKind,
    RunState,
    StoredGoldScore,
    Task,
    TaskKind,
    new_id,
)
from storage.masks import read_parquet
from storage.objects import ObjectStore

LOOKED_AHEAD = 1_000
"""Open tasks among which the gold ones to come are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldRules:
    """When an annotator's task is gold; off by default."""

    first: int = 0
    """An annotator's first tasks on a dataset that are gold."""
    share: float = 0.0
    """Share of gold tasks among the later ones, [0, 1]."""
    feedback: bool = False
    """Whether an annotator is told what was missed."""

    @property
    def is_on(self) -> bool:
        """Whether there are gold tasks."""
        return self.first > 0 or self.share > 0

    def is_due(self, seed: str, place: int) -> bool:
        """Whether the task at this place of an annotator's work, from 0, is gold."""
        return place < self.first or _chance(seed, place) < self.share


class GoldTasks:
    """One per server. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        queue: AnnotationQueue,
        objects: ObjectStore,
        rules: Callable[[], GoldRules],
        truths_of: Callable[[int], Sequence[RLE]],
    ) -> None:
        """
        Args:
            rules: returns when tasks are gold now.
            truths_of: returns the true masks of an image by its id.
        """
        self._catalog, self._queue, self._objects = catalog, queue, objects
        self._truths_of = truths_of
        self._rules = rules

    @property
    def rules(self) -> GoldRules:
        """When tasks are gold now."""
        return self._rules()

    def offer(
        self,
        annotator: Annotator,
        kinds: Collection[TaskKind],
        dataset_ids: Collection[int] | None,
    ) -> None:
        """Put a gold task in the place of the annotator's next task, if one is due there and an
        image is left that they have had no task on."""
        if not self.rules.is_on:
            return
        next_task = self._queue.next_fresh(annotator.id, kinds=kinds, dataset_ids=dataset_ids)
        if next_task is None or next_task.kind == TaskKind.REVIEW:
            return
        dataset_id = next_task.dataset_id
        run_id, seed = self._run(annotator, dataset_id)
        place = self._catalog.gold.place(annotator.id, dataset_id)
        if not self.rules.is_due(seed, place):
            return
        for image_id in sorted(self._left(annotator, dataset_id), key=lambda i: _chance(seed, -i)):
            payload: dict[str, Any] = {GOLD: {"run": next_task.run_id, "round": next_task.round_id}}
            if next_task.kind == TaskKind.COMPLETE:
                key = layout.PREFILL.key(run=next_task.run_id, name=image_id)
                if not self._objects.exists(key):
                    continue
                payload["prefill"] = key
            gold = NewTask(
                dataset_id=dataset_id,
                image_id=image_id,
                kind=next_task.kind,
                run_id=run_id,
                priority=next_task.priority,
                reserved_for=annotator.id,
                payload=payload,
            )
            with contextlib.suppress(ConstraintError):  # another tab of theirs has just done so
                self._queue.exchange(next_task.id, gold)
            return

    def ahead(self, annotator: Annotator, task: Task, open_tasks: int) -> int:
        """The number of gold tasks that the annotator will get among `open_tasks` others if nobody
        else takes any, so that their number falls by one with each task."""
        if not self.rules.is_on or task.kind == TaskKind.REVIEW:
            return 0
        _, seed = self._run(annotator, task.dataset_id)
        left = len(self._left(annotator, task.dataset_id))
        place = self._catalog.gold.place(annotator.id, task.dataset_id)
        others, found = min(open_tasks, LOOKED_AHEAD), 0
        while others > 0:
            place += 1
            if found < left and self.rules.is_due(seed, place):
                found += 1
            else:
                others -= 1
        return found

    def score(self, task: Task) -> None:
        """Score a submitted gold task; repeating it changes nothing."""
        truths = self._truths_of(task.image_id)
        if task.annotator_id is None or task.result_key is None or not truths:
            return
        answer = read_parquet(self._objects.get(task.result_key))
        found = score_answer([mask.rle for mask in answer], truths)
        of_task = {"dataset_id": task.dataset_id, "image_id": task.image_id}
        self._catalog.gold.add_score(
            NewGoldScore(
                task_id=task.id, annotator_id=task.annotator_id, **of_task, **asdict(found)
            )
        )

    def feedback(self, task: Task) -> str | None:
        """What the annotator missed in a gold task, in words and numbers, without places; None for
        other tasks, and where feedback is off."""
        if not self.rules.feedback or GOLD not in task.payload:
            return None
        scores = self._catalog.gold.scores(task_id=task.id)
        return feedback_on(scores[0]) if scores else None

    def _run(self, annotator: Annotator, dataset_id: int) -> tuple[str, str]:
        """Id and secret seed of the run of the annotator's gold tasks on a dataset. It is finished
        from the start, as nothing waits for it."""
        name = f"gold/{dataset_id}/{annotator.id}"
        run = self._catalog.runs.start(
            uuid.uuid5(uuid.NAMESPACE_URL, name).hex,
            RunKind.GOLD,
            dataset_id=dataset_id,
            config={"seed": new_id()},
        )
        if run.state != RunState.FINISHED:
            run = self._catalog.runs.finish(run.id)
        return run.id, str(run.config["seed"])

    def _left(self, annotator: Annotator, dataset_id: int) -> set[int]:
        gold = self._catalog.gold
        return set(gold.image_ids(dataset_id)) - gold.known_images(annotator.id, dataset_id)


def feedback_on(score: GoldScore | StoredGoldScore) -> str:
    """Sentences on what was missed."""
    missed = score.truths - score.found_50
    objects = "object" if score.truths == 1 else "objects"
    if missed:
        parts = [f"{missed} of {score.truths} {objects} missed, or masked badly."]
    elif score.truths == 1:
        parts = ["You found the only object."]
    else:
        parts = [f"You found all {score.truths} objects."]
    if score.iou is not None:
        parts.append(f"Your masks match the known ones by {score.iou:.2f}; 1 is exact.")
    if score.boundary_f is not None:
        parts.append(f"{100 * score.boundary_f:.0f} % of their outlines are where they should be.")
    if score.extra:
        masks = "mask matches" if score.extra == 1 else "masks match"
        parts.append(f"{score.extra} {masks} no known object.")
    return " ".join(parts)


def _chance(seed: str, number: int) -> float:
    """A number in [0, 1) that looks random and is always the same."""
    return int(sha256(f"{seed}/{number}".encode()).hexdigest()[:12], 16) / 16**12
