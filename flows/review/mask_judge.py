"""A few-shot judge of automatic masks, which are routed as by a verifier
(`flows.review.model_routing`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from prefect import flow

from engine.core.batches import batches
from engine.core.records import Mask, Source, Stage
from engine.semantics.mask_pictures import outlined
from engine.verifier.few_shot import GOOD_MASK, Question
from flows.review.few_shot_judge import SIDE, About, FewShotJudge, Known
from flows.review.judged_masks import images_of_masks
from flows.review.model_routing import JudgedImage, route_by
from flows.review.route_options import RouteOptions
from flows.stages.seen_masks import IMAGES_AT_ONCE
from flows.workspace import progress
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Dataset, VerdictKind
from storage.formats.images import BadImageError


class MaskJudge(FewShotJudge):
    """A Judge (`model_routing`) that says whether masks are good."""

    about = About.MASKS

    @staticmethod
    def answers(workspace: Workspace, dataset: Dataset) -> int:
        """See FewShotJudge."""
        return len(workspace.catalog.verdicts.of_people(dataset.id))

    @staticmethod
    def too_few(dataset: str, known: int) -> str:
        """See FewShotJudge."""
        return (
            f"people have judged {known} automatic masks of dataset {dataset!r}; have a sample "
            f"judged with `dataengine review --dataset {dataset}`"
        )

    def _read_known(self) -> Known:
        workspace = self._workspace
        verdicts = {
            row.mask_id: row for row in workspace.catalog.verdicts.of_people(self._dataset.id)
        }
        masks: list[Mask] = []
        for part in batches(sorted(images_of_masks(verdicts)), IMAGES_AT_ONCE):
            for mask in workspace.masks.masks(
                dataset=self._dataset.name, source=Source.AUTOMATIC, image_ids=part
            ):
                if mask.mask_id in verdicts and mask.mask_id in self._vectors and mask.area:
                    masks.append(mask)
        self._masks = sorted(masks, key=lambda mask: mask.mask_id)
        given = [verdicts[mask.mask_id] for mask in self._masks]
        return self._known_rows(
            [(self._vectors[mask.mask_id], mask.image_id) for mask in self._masks],
            [row.verdict == VerdictKind.ACCEPT for row in given],
            [row.reason or "" for row in given],
        )

    def _cut(self, row: int) -> np.ndarray:
        mask = self._masks[row]
        image = self._workspace.catalog.images.get(mask.image_id)
        [picture] = outlined(self._workspace.pixels(image), [mask.rle], SIDE)
        return np.asarray(picture)

    def _question(self, topic: int) -> Question:
        return GOOD_MASK

    def judged(self, image_ids: Sequence[int], wanted: set[str]) -> Iterator[JudgedImage]:
        """See Judge: masks with vectors, of images that can be read."""
        workspace = self._workspace
        with progress.current().track("ask about masks", len(image_ids), "image") as advance:
            for image in workspace.catalog.images.get_many(list(image_ids)):
                masks = [
                    mask
                    for mask in workspace.masks.masks(
                        dataset=self._dataset.name, source=Source.AUTOMATIC, image_ids=[image.id]
                    )
                    if mask.mask_id in wanted and mask.mask_id in self._vectors and mask.area
                ]
                group = image.near_image_id or image.id
                try:
                    pictures = outlined(workspace.pixels(image), [m.rle for m in masks], SIDE)
                except BadImageError:
                    masks, pictures = [], np.zeros((0, SIDE, SIDE, 3), np.uint8)
                scores = [
                    self._ask(self._vectors[mask.mask_id], group, picture)
                    for mask, picture in zip(masks, pictures, strict=True)
                ]
                advance()
                yield JudgedImage(image.id, masks, self.probabilities(scores))


@flow(name="judge-masks")
def judge_masks(
    workspace: str,
    dataset: str,
    precision: float,
    stage: str = Stage.FULLY_AUTOMATIC,
    dry_run: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Prefect flow: let the calibrated judge accept or reject the masks that it is sure of, and
    send the rest to the review queue; returns what `route_by` does.

    Raises:
        JudgeError: it is not calibrated, or switched off.
        RouteError: no threshold reaches the precision, or there are no masks to route.
    """
    asked = RouteOptions(precision=precision, stage=Stage(stage))
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    return route_by(opened, row, MaskJudge.ready(opened, row, options), asked, dry_run=dry_run)
