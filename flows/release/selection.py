"""Chooses a release's masks: reads the pinned version of the mask table and applies the rules."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.batches import batches
from engine.core.errors import DataEngineError
from flows.release.image_status import Status, image_statuses
from flows.release.names import ReleasedNames
from flows.release.rules import Judged, Rules, RulesError, accepted_rows, without_repeats
from flows.workspace.selections import selected_images
from flows.workspace.workspace import Workspace
from storage.catalog import AnnotatorKind, Image, ModelKind, Release
from storage.masks import SCHEMA, from_batch
from storage.release_files import MASKS_SCHEMA


class MaskSizeError(DataEngineError):
    """An accepted mask does not have the size of its image. Nothing was released."""


PAGE = 200
"""Images whose masks are chosen at once."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some images and their accepted masks."""

    images: list[Image]
    """In order of id."""
    statuses: list[Status]
    rows: pa.Table
    """Of MASKS_SCHEMA, by image_id and the release's order."""

    def counts(self) -> dict[int, int]:
        """The number of masks by image id; images without any are missing."""
        ids, numbers = np.unique(self.rows.column("image_id").to_numpy(), return_counts=True)
        return dict(zip(ids.tolist(), numbers.tolist(), strict=True))


def chosen_masks(
    workspace: Workspace, begun: Release, rules: Rules, names: ReleasedNames
) -> Iterator[Chosen]:
    """Yield a dataset's images, in order of id, with the masks that the rules accept.

    Raises:
        MaskSizeError: an accepted mask does not fit its image.
        RulesError: a rule is about labels or a verifier that the dataset or workspace lacks.
    """
    wanted = _wanted_categories(rules, names)
    verdicts = workspace.catalog.verdicts
    shown = _pseudonyms(workspace)
    accepted = verdicts.accepted_mask_ids(begun.dataset_id) if rules.verdicts == "accepted" else ()
    judged = Judged.of(verdicts.rejected_mask_ids(begun.dataset_id), accepted)
    status_of = image_statuses(workspace, begun)
    everything = Rules(verdicts="not-rejected")
    for page in batches(_images(workspace, begun, rules), PAGE):
        ids = [image.id for image in page]
        scanned = workspace.masks.scan(
            image_ids=ids, version=begun.table_version, current_only=True
        )
        current = pa.Table.from_batches(list(scanned), SCHEMA)
        stages = _stages(accepted_rows(current, everything, judged))
        rows = accepted_rows(current, rules, judged)
        _check_sizes(page, rows)
        if rules.min_accept_probability is not None:
            rows = _trusted(workspace, begun, rules, rows)
        rows = _labelled(_pseudonymous(rows, shown), names)
        if wanted is not None:
            rows = rows.filter(pc.is_in(rows.column("category_id"), wanted))
        yield Chosen(
            page,
            [status_of(image.id, stages.get(image.id, ())) for image in page],
            without_repeats(rows, rules.repeated_iou),
        )


def _images(workspace: Workspace, begun: Release, rules: Rules) -> Iterator[Image]:
    """The dataset's images in order of id; those that a program's run selected, if one is named."""
    images = workspace.catalog.images.each(begun.dataset_id)
    if rules.program is None:
        return images
    selected = selected_images(workspace, begun.dataset_id, rules.program)
    return (image for image in images if image.id in selected)


def _check_sizes(images: list[Image], rows: pa.Table) -> None:
    """Check that each mask has the size of its image; masks of other code may not."""
    columns = (rows.column(name).to_numpy() for name in ("image_id", "height", "width"))
    ids, heights, widths = columns
    places = np.searchsorted([image.id for image in images], ids)
    sizes = np.array([(image.height, image.width) for image in images])[places]
    if wrong := np.flatnonzero((sizes[:, 0] != heights) | (sizes[:, 1] != widths)).tolist():
        first = wrong[0]
        height, width = sizes[first].tolist()
        raise MaskSizeError(
            f"mask {rows.column('mask_id')[first].as_py()} is {heights[first]} x {widths[first]} "
            f"pixels, its image {ids[first]} is {height} x {width} ({len(wrong)} such masks near "
            "it): reject them, or leave them out by a rule"
        )


def _pseudonyms(workspace: Workspace) -> dict[str, str]:
    """Return what a release says of annotators: the ids of people, the names of the others."""
    return {
        one.name: f"annotator-{one.id}" if one.kind == AnnotatorKind.PERSON else one.name
        for one in workspace.catalog.annotators.all()
    }


def _pseudonymous(rows: pa.Table, shown: dict[str, str]) -> pa.Table:
    """The rows without names of people; an unknown annotator has none."""
    column = rows.column("annotator").combine_chunks()
    known = pc.index_in(column, pa.array(list(shown), pa.string()))
    known = pc.if_else(pc.is_valid(column), known, None)  # no name is one of "nobody"
    place = rows.schema.get_field_index("annotator")
    return rows.set_column(
        place, rows.schema.field(place), pa.array(list(shown.values()), pa.string()).take(known)
    )


def check_rules(workspace: Workspace, rules: Rules, names: ReleasedNames) -> None:
    """Check the rules before anything is begun.

    Raises:
        RulesError: as for `chosen_masks`.
    """
    _wanted_categories(rules, names)
    if rules.min_accept_probability is not None and rules.verifier is None:
        raise RulesError(
            "no verifier is current: train one with `dataengine verifier train`, or leave out "
            "the accept probability"
        )


def current_verifier_version(workspace: Workspace) -> str | None:
    """The current verifier, which a release's rules pin; None if there is none."""
    model = workspace.catalog.models.current(ModelKind.VERIFIER)
    return None if model is None else model.version


def _stages(rows: pa.Table) -> dict[int, Collection[str]]:
    found: dict[int, set[str]] = {}
    grouped = rows.group_by(["image_id", "stage"]).aggregate([])
    for image_id, stage in zip(
        grouped.column("image_id").to_pylist(), grouped.column("stage").to_pylist(), strict=True
    ):
        found.setdefault(image_id, set()).add(stage)
    return dict(found)


def _labelled(rows: pa.Table, names: ReleasedNames) -> pa.Table:
    """The rows with their categories."""
    numbers = names.of(from_batch(rows)) if names.categories is not None else None
    ids = rows.column("mask_id").to_pylist() if numbers else [None] * rows.num_rows
    found = pa.array([None if one is None else (numbers or {}).get(one) for one in ids], pa.int32())
    return rows.append_column(MASKS_SCHEMA.field("category_id"), found)


def _wanted_categories(rules: Rules, names: ReleasedNames) -> pa.Array | None:
    """The ids of the categories that the rules ask for; None: any, or none at all."""
    if not rules.categories and not rules.labelled_only:
        return None
    if names.categories is None:
        raise RulesError(
            "the dataset has no categories: set them with `dataengine labels set`, or leave out "
            "rules about labels"
        )
    numbers = {name: number for number, name in names.categories.names.items()}
    if unknown := sorted(set(rules.categories) - numbers.keys()):
        raise RulesError(
            f"unknown category {unknown[0]!r}; the dataset has {', '.join(sorted(numbers))}"
        )
    chosen = rules.categories or tuple(numbers)
    return pa.array([numbers[name] for name in chosen], pa.int32())


def _trusted(workspace: Workspace, begun: Release, rules: Rules, rows: pa.Table) -> pa.Table:
    """The rows without automatic masks of a lower accept probability. Masks of images that cannot
    be read have none, and are left out."""
    automatic = rows.filter(pc.equal(rows.column("source"), "automatic"))
    if not automatic.num_rows:
        return rows
    from engine.verifier.model import load_verifier  # torch, which other rules do not need
    from flows.stages.seen_masks import seen_runs

    verifier = load_verifier(workspace.checkpoint(str(rules.verifier)))
    dataset = workspace.catalog.datasets.get_by_id(begun.dataset_id)
    images = set(automatic.column("image_id").to_pylist())
    trusted: list[str] = []
    for seen in seen_runs(workspace, dataset, verifier.card.segmenter, images):
        enough = verifier.probabilities(seen.picture) >= float(rules.min_accept_probability or 0)
        trusted += [m.mask_id for m, good in zip(seen.masks, enough, strict=True) if good]
    by_people = pc.not_equal(rows.column("source"), "automatic")
    is_trusted = pc.is_in(rows.column("mask_id"), pa.array(trusted, pa.string()))
    return rows.filter(pc.or_(by_people, is_trusted))
