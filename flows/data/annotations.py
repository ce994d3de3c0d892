"""Stores the annotations of ingested images: their masks, as ground truth or as people's work, the
file's categories, and the masks' labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import zip_longest

from engine.core import rle as rle_codec
from engine.core.batches import batches
from engine.core.categories import CategoryError, CategoryList, name_key
from engine.core.records import Mask, Provenance, Source, Stage
from engine.core.rle import RLE
from flows.data.inputs import NOT_NAMED, IngestReport, Input
from flows.workspace.retry import retry_during_outage
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, LabelSource, NewImage, NewLabel, StaleStateError
from storage.formats.coco import BadAnnotationsError, CocoDataset
from storage.formats.coco_annotations import Picture, Problem

KEPT = "images that have other annotations already (--replace-annotations takes the new ones)"
TWO_NAMES = "masks that have two categories (the first is used)"
CIRCLES = "supercategories of the file that form a circle (they are left out)"
BATCH = 100
"""Images whose annotations are committed at once."""
ATTEMPTS = 10
"""To add categories, while other processes change the list."""


class AnnotationsAs(StrEnum):
    """What ingested annotations are."""

    TRUTH = "truth"
    """The images' ground truth, in a table of its own: for scores, gold and simulated people."""
    MASKS = "masks"
    """People's work of stage 1, in the mask table: trained on and released."""


@dataclass(frozen=True, slots=True)
class Named:
    """An ingested image file under one of its names."""

    row: NewImage
    picture: Picture


def imported(
    dataset: str, run_id: str, shard: int = 0, stage: Stage = Stage.GROUND_TRUTH
) -> Provenance:
    """Provenance of masks that are ingested with their images."""
    return Provenance(
        dataset=dataset, stage=stage, run_id=run_id, shard=shard, source=Source.IMPORTED
    )


def usable_names(truth: CocoDataset, present: CategoryList) -> list[tuple[str, str | None]]:
    """The names and parents of the file's categories that a list can have; without parents if those
    form a circle.

    Raises:
        BadAnnotationsError: the list would have too many.
    """
    names = truth.categories.names
    flat: list[tuple[str, str | None]] = [(name, None) for name, _ in names]
    for given in (names, flat):
        try:
            present.extended(given)
            return given
        except CategoryError as error:
            fault = error
    raise BadAnnotationsError(f"the categories of the annotations cannot be taken: {fault}")


class AnnotationIngest:
    """The annotations of one ingest, after all its images: an image can have several names."""

    def __init__(
        self,
        workspace: Workspace,
        dataset: Dataset,
        found: Input,
        truth: CocoDataset,
        report: IngestReport,
        *,
        kind: AnnotationsAs,
        replace: bool,
    ) -> None:
        """Checks that the dataset's list can have the file's categories.

        Raises:
            BadAnnotationsError: it cannot.
        """
        self._workspace, self._dataset = workspace, dataset
        self._found, self._truth, self._report = found, truth, report
        self._kind, self._replace = kind, replace
        self._table = workspace.masks if kind == AnnotationsAs.MASKS else workspace.truths
        self._outage_seconds = workspace.settings.outage_seconds
        present = workspace.catalog.categories.current(dataset.id).categories
        self._names = usable_names(truth, present)
        if self._names != truth.categories.names:
            text = "the supercategories form a circle and are left out"
            self._add_problems("categories", [Problem(CIRCLES, text)])

    def commit(self, run_id: str, named: dict[int, list[Named]]) -> None:
        """Add the masks, categories and labels of these images, by id."""
        self._report.problems += map(str, self._truth.problems)
        self._add_problems("categories", self._truth.categories.problems)
        ids = self._add_categories()
        has_list = self._workspace.catalog.categories.current(self._dataset.id).version > 0
        for shard, some in enumerate(batches(named, BATCH)):
            held = {i: rles for i in some if (rles := self._find_masks(named[i])) is not None}
            masks, kept = self._new_masks(run_id, shard, named, held)
            if masks:
                commit = partial(self._table.commit, masks, run_id=run_id, shard=shard)
                retry_during_outage(self._outage_seconds, commit)
            if has_list:
                given = {i: held[i] for i in held if i not in kept}
                label = partial(self._label, given, ids)
                self._report.labels += retry_during_outage(self._outage_seconds, label)
        for name in self._found.without_file():
            self._report.problems.append(f"{name}: annotated, but not on disk")

    def _add_categories(self) -> dict[str, int]:
        """Add the file's categories to the dataset's list; returns the ids of all its names."""
        if not self._names:
            return {}
        lists = self._workspace.catalog.categories
        for _ in range(ATTEMPTS):
            present = lists.current(self._dataset.id)
            new = present.categories.extended(self._names)
            if new is not present.categories:
                try:
                    lists.set(self._dataset.id, new, expected_version=present.version)
                except StaleStateError:
                    continue
            self._report.new_categories = len(new) - len(present.categories)
            ids = {name_key(one.name): one.id for one in new.categories}
            return {name: ids[name_key(name)] for name, _ in self._names}
        raise StaleStateError(f"the categories of {self._dataset.name!r} keep changing: repeat it")

    def _find_masks(self, items: Sequence[Named]) -> dict[RLE, str | None] | None:
        """The distinct masks that the file has for an image under all its names, and the names of
        their categories; None if no name is listed with usable annotations."""
        masks: dict[RLE, str | None] = {}
        usable = False
        for item in items:
            name = item.row.file_name
            found = self._truth.find(name, item.picture, item.row.sha256)
            self._add_problems(name, found.problems)
            self._add_problems(name, found.name_problems)
            if not found.named and not found.problems:
                self._found.passed_over.add(NOT_NAMED, name)
            usable = usable or bool(found.masks) or (found.named and not found.problems)
            for rle, category in zip(found.masks, found.names, strict=True):
                if category and (other := masks.get(rle)) and other != category:
                    text = f"a mask is {other!r} and {category!r}; it is taken as {other!r}"
                    self._add_problems(name, [Problem(TWO_NAMES, text)])
                masks[rle] = masks.get(rle) or category
        return masks if usable else None

    def _new_masks(
        self,
        run_id: str,
        shard: int,
        named: dict[int, list[Named]],
        held: dict[int, dict[RLE, str | None]],
    ) -> tuple[list[Mask], set[int]]:
        """The rows that give these images the file's masks, and the images that keep other ones:
        those that have some, unless annotations are replaced."""
        existing = self._imported(list(held))
        masks: list[Mask] = []
        kept: set[int] = set()
        for image_id, rles in held.items():
            before = existing.get(image_id, [])
            old = {mask.rle for mask in before}
            if before and old != rles.keys() and not self._replace:
                self._report_kept(named[image_id][0].row.file_name, before, rles)
                kept.add(image_id)
            elif old != rles.keys():
                self._report.replaced += bool(before)
                gone = [mask for mask in before if mask.rle not in rles]
                fresh = [rle for rle in rles if rle not in old]
                masks += self._masks(run_id, shard, image_id, fresh, gone)
                self._report.masks += len(fresh)
        return masks, kept

    def _imported(self, image_ids: Sequence[int]) -> dict[int, list[Mask]]:
        """The images' imported masks that no later import replaced, by image. Those that people
        fixed since are among them: the file has them still."""
        if not image_ids:
            return {}
        rows = list(self._table.masks(image_ids=image_ids, source=Source.IMPORTED))
        replaced = {mask.supersedes for mask in rows}
        found: dict[int, list[Mask]] = {}
        for mask in rows:
            if mask.mask_id not in replaced and mask.area > 0:
                found.setdefault(mask.image_id, []).append(mask)
        return found

    def _masks(
        self, run_id: str, shard: int, image_id: int, fresh: Sequence[RLE], gone: Sequence[Mask]
    ) -> list[Mask]:
        """New masks that supersede those of `gone` one by one; empty masks supersede the rest."""
        is_work = self._kind == AnnotationsAs.MASKS
        stage = Stage.ASSISTED_MANUAL if is_work else Stage.GROUND_TRUTH
        masks, origin = [], imported(self._dataset.name, run_id, shard, stage)
        for number, (rle, old) in enumerate(zip_longest(fresh, gone)):
            if rle is None:
                rle = rle_codec.empty(old.rle.size)
            supersedes = old.mask_id if old else None
            masks.append(origin.mask(image_id, number, rle, supersedes=supersedes))
        return masks

    def _label(self, given: dict[int, dict[RLE, str | None]], ids: dict[str, int]) -> int:
        """Label the images' imported masks; those that have a label keep it, unless annotations
        are replaced. Returns the number of new labels."""
        labels = self._workspace.catalog.labels
        known = labels.of_images(list(given))
        rows: list[NewLabel] = []
        for image_id, masks in self._imported(list(given)).items():
            for mask in masks:
                name = given[image_id].get(mask.rle)
                category_id = None if name is None else ids[name]
                label = known.get(mask.mask_id)
                if label is None and category_id is None and mask.supersedes is None:
                    continue  # with `supersedes`, it would have the label of the mask before
                if label is None or (self._replace and label.category_id != category_id):
                    new = NewLabel(
                        mask_id=mask.mask_id,
                        image_id=image_id,
                        category_id=category_id,
                        source=LabelSource.IMPORTED,
                    )
                    rows.append(new)
        return labels.add_many(self._dataset.id, rows, only_unlabelled=not self._replace)

    def _add_problems(self, name: str, problems: Sequence[Problem]) -> None:
        """Report problems, and count them by kind."""
        self._report.problems += [f"{name}: {problem}" for problem in problems]
        self._found.passed_over.add_all(name, problems)

    def _report_kept(self, name: str, before: Sequence[Mask], rles: dict[RLE, str | None]) -> None:
        text = f"has {len(before)} annotations already; {len(rles)} other ones are skipped"
        self._report.problems.append(f"{name}: {text} (--replace-annotations takes the new ones)")
        self._found.passed_over.add(KEPT, name)
