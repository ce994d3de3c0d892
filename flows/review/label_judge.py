"""A few-shot judge of labels that a model gave and no person has looked at.

Sure confirmations are labels of the same category, with the source `model`, by an annotator of kind
model: they give way to any person's. The others go to reviewers, who have to decide: first those
that the judge doubts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from prefect import flow

from engine.annotation.mask_labels import LABELS_ASKED
from engine.core.batches import batches
from engine.core.categories import NONE_OF_THESE
from engine.core.records import Mask
from engine.semantics.mask_pictures import outlined
from engine.verifier.few_shot import Question, right_label
from flows.labels.current import labels_of
from flows.review.answer_routing import AnswerRouting, Answers, Sorted
from flows.review.few_shot_judge import SIDE, About, FewShotJudge, Known
from flows.review.model_routing import (
    ASK,
    DROP,
    PASS,
    RUNS,
    annotator_of,
    peoples_run,
)
from flows.review.route_options import RouteOptions
from flows.semantics.known_labels import known_labels
from flows.stages.seen_masks import IMAGES_AT_ONCE
from flows.workspace import progress
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import (
    Dataset,
    Image,
    LabelSource,
    NewLabel,
    NewTask,
    Run,
    RunKind,
    Task,
    TaskKind,
)
from storage.formats.images import BadImageError

MOST_EXAMPLES = 20_000
"""Masks that people labelled, besides those that a model had labelled before."""
DOUBTED = "doubted"
"""In the payload of a review: masks whose label the judge holds for wrong."""
NOTE = "A language model cannot confirm the label of {}: say which label is right."


@dataclass(frozen=True, slots=True)
class Labelled:
    """A mask and the category that a model gave it."""

    mask: Mask
    category_id: int


class LabelJudge(FewShotJudge):
    """Says whether a model's label of a mask is right."""

    about = About.LABELS
    option = " --labels"

    @staticmethod
    def answers(workspace: Workspace, dataset: Dataset) -> int:
        """See FewShotJudge."""
        return len(workspace.catalog.labels.answered_proposals(dataset.id))

    @staticmethod
    def too_few(dataset: str, known: int) -> str:
        """See FewShotJudge."""
        return (
            f"people have confirmed or changed {known} labels of models in dataset {dataset!r}; "
            f"have some given with `dataengine labels suggest --dataset {dataset} --confirm`, and "
            "confirm or change them in review or on the page Browse"
        )

    def _read_known(self) -> Known:
        catalog, dataset = self._workspace.catalog, self._dataset
        self._listed = catalog.categories.current(dataset.id).categories
        names = self._listed.names
        proposed = {
            one.mask_id: one.category_id
            for one in catalog.labels.answered_proposals(dataset.id)
            if one.category_id is not None and one.category_id in names
        }
        given = known_labels(self._workspace, dataset).by_people()
        usable = sorted(mask_id for mask_id in given if mask_id in self._vectors)
        asked = [mask_id for mask_id in usable if mask_id in proposed]
        others = [mask_id for mask_id in usable if mask_id not in proposed]
        above = {one.id: one.parent for one in self._listed.categories}
        self._lines = {one: _line(one, above) for one in above}
        order = np.random.default_rng(0).permutation(len(others))[:MOST_EXAMPLES]
        self._mask_ids = asked + [others[place] for place in sorted(order.tolist())]
        self._category_N = np.array([given[one] for one in self._mask_ids], np.int64)
        topics = [proposed[one] for one in asked]
        topics += [0] * (len(self._mask_ids) - len(asked))
        return self._known_rows(
            [(self._vectors[one], self._image_of[one]) for one in self._mask_ids],
            (self._category_N == np.array(topics, np.int64)).tolist(),
            [names.get(int(one), NONE_OF_THESE) for one in self._category_N],
            topics,
            [place < len(asked) for place in range(len(self._mask_ids))],
        )

    def _told(self, topic: int) -> tuple[np.ndarray, np.ndarray]:
        """See FewShotJudge. A wider or narrower category neither confirms nor denies one."""
        below = {one for one, line in self._lines.items() if topic in line}
        related = sorted(below | self._lines[topic])
        answer_N = self._category_N == topic
        return answer_N, answer_N | ~np.isin(self._category_N, related)

    def _cut(self, row: int) -> np.ndarray:
        mask_id = self._mask_ids[row]
        image = self._workspace.catalog.images.get(self._image_of[mask_id])
        [mask] = [
            one
            for one in self._workspace.masks.masks(image_ids=[image.id], mask_ids=[mask_id])
            if one.mask_id == mask_id
        ]
        [picture] = outlined(self._workspace.pixels(image), [mask.rle], SIDE)
        return np.asarray(picture)

    def _question(self, topic: int) -> Question:
        return right_label(self._listed.names[topic])

    def knows(self, mask_id: str, category_id: int | None) -> bool:
        """Whether it can be asked about a mask's label: there are a vector and the category."""
        return mask_id in self._vectors and category_id in self._listed.names

    def judged(self, image: Image, labelled: Sequence[Labelled]) -> np.ndarray:
        """Return the probabilities that people confirm labels of an image, float64 (N,).

        Raises:
            BadImageError: the image cannot be read.
        """
        rles = [one.mask.rle for one in labelled]
        pictures = outlined(self._workspace.pixels(image), rles, SIDE)
        group = image.near_image_id or image.id
        scores = [
            self._ask(self._vectors[one.mask.mask_id], group, picture, one.category_id)
            for one, picture in zip(labelled, pictures, strict=True)
        ]
        return self.probabilities(scores)


def _line(category_id: int, above: dict[int, int | None]) -> set[int]:
    """Return a category and those above it."""
    found: set[int] = set()
    at: int | None = category_id
    while at is not None:
        found.add(at)
        at = above.get(at)
    return found


class LabelRouting(AnswerRouting[Labelled]):
    """Confirms labels, and queues those that a person has to look at."""

    judge: LabelJudge

    def answers(self) -> Iterator[Answers[Labelled]]:
        """See AnswerRouting: the labels of current masks that are not rejected."""
        workspace, name = self.workspace, self.dataset.name
        counts = workspace.masks.counts(("image_id",), dataset=name, current_only=True)
        images = sorted(int(str(key[0])) for key in counts)
        left_out = self._left_out()
        with progress.current().track("ask about labels", len(images), "image") as advance:
            for part in batches(images, IMAGES_AT_ONCE):
                labelled = self._labelled(part, left_out)
                for image in workspace.catalog.images.get_many(sorted(labelled)):
                    some = labelled[image.id]
                    with suppress(BadImageError):  # the next stage that reads it quarantines it
                        yield Answers(image.id, some, self.judge.judged(image, some))
                advance(len(part))

    def _left_out(self) -> set[str]:
        """Return rejected masks, and those that wait in a review or were sent to one for this."""
        catalog = self.workspace.catalog
        found = catalog.verdicts.rejected_mask_ids(self.dataset.id)
        found |= catalog.verdicts.waiting_mask_ids(self.dataset.id)
        for run in catalog.runs.all(dataset_id=self.dataset.id, kind=RunKind.JUDGE, limit=RUNS):
            if run.model == self.judge.version:
                asked = catalog.verdicts.asked_in_run(peoples_run(run.id))
                found.update(mask_id for names in asked.values() for mask_id in names)
        return found

    def _labelled(self, image_ids: list[int], left_out: set[str]) -> dict[int, list[Labelled]]:
        masks = [
            mask
            for mask in self.workspace.masks.masks(
                dataset=self.dataset.name, image_ids=image_ids, current_only=True
            )
            if mask.area and mask.mask_id not in left_out
        ]
        found: dict[int, list[Labelled]] = {}
        labels = labels_of(self.workspace, masks)
        for mask in masks:
            label = labels.get(mask.mask_id)
            if label is None or label.source != LabelSource.MODEL or label.annotator_id is not None:
                continue
            if label.category_id is not None and self.judge.knows(mask.mask_id, label.category_id):
                found.setdefault(mask.image_id, []).append(Labelled(mask, label.category_id))
        return found

    def act(self, run_id: str, found: Sorted[Labelled]) -> NewTask | None:
        """See AnswerRouting."""
        version = self.judge.version
        annotator = annotator_of(self.workspace, version)
        labels = [
            NewLabel(
                mask_id=one.mask.mask_id,
                image_id=found.image_id,
                category_id=one.category_id,
                source=LabelSource.MODEL,
                model=version,
                annotator_id=annotator.id,
                score=probability,
            )
            for one, probability in found.ways[PASS]
        ]
        if labels:
            self.workspace.catalog.labels.add_many(self.dataset.id, labels)
        doubted = [one.mask.mask_id for one, _ in found.ways[DROP]]
        names = doubted + [one.mask.mask_id for one, _ in found.ways[ASK]]
        if not names:
            return None
        count = "1 mask" if len(names) == 1 else f"{len(names)} masks"
        return NewTask(
            dataset_id=self.dataset.id,
            image_id=found.image_id,
            kind=TaskKind.REVIEW,
            run_id=peoples_run(run_id),
            payload={
                "mask_ids": names,
                LABELS_ASKED: names,
                DOUBTED: doubted,
                "note": NOTE.format(count),
            },
        )

    def counts(self, run: Run, tasks: Sequence[Task]) -> Counter[int]:
        """See AnswerRouting."""
        annotator = annotator_of(self.workspace, self.judge.version)
        doubted = sum(len(task.payload[DOUBTED]) for task in tasks)
        names = sum(len(task.payload["mask_ids"]) for task in tasks)
        confirmed = self.workspace.catalog.labels.count_of_annotator(
            self.dataset.id, annotator.id, after_id=run.config["first_label"]
        )
        return Counter({PASS: confirmed, DROP: doubted, ASK: names - doubted})


@flow(name="judge-labels")
def judge_labels(
    workspace: str,
    dataset: str,
    precision: float,
    dry_run: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Prefect flow: let the calibrated judge confirm the labels of models that it is sure of, and
    send the rest to reviewers; returns what `AnswerRouting.route` does.

    Raises:
        JudgeError: it is not calibrated, or switched off.
        RouteError: no threshold reaches the precision.
    """
    asked = RouteOptions(precision=precision)
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    judge = LabelJudge.ready(opened, row, options)
    return LabelRouting(opened, row, judge, asked).route(dry_run=dry_run)
