"""Scores of a model version on a dataset's held-out images, computed once and stored; and on
folders of images with COCO annotations."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from engine.automatic import MaskGenerator
from engine.core.batches import spread
from engine.core.errors import DataEngineError
from engine.core.records import PEOPLES
from engine.core.rle import RLE
from engine.evaluation.bootstrap import CONFIDENCE, RESAMPLES, ByImage, mean_of_sets
from engine.evaluation.click_levels import best_click_levels, score_click_levels
from engine.evaluation.clicks import ClickScores, EvaluationImage, evaluate_clicks
from engine.evaluation.proposals import ProposalScores, evaluate_proposals
from engine.sam import Segmenter
from engine.sam.tiles import MOST_SIDE
from flows.data.inputs import NOT_NAMED, Input, PassedOver, scan_folder
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage import layout
from storage.catalog import Dataset, Split
from storage.formats.coco import CocoDataset, ImageAnnotations
from storage.formats.coco_annotations import Conventions, Picture
from storage.formats.images import MAX_PIXELS, BadImageError, inspect_image, read_image
from storage.objects import ObjectExistsError

HELD_OUT_CLICKS = (1, 2, 3)
"""Clicks after which a round's model is scored: enough to compare models, and fast enough for
every round."""

LEVELS_IMAGES, LEVELS_MASKS, LEAST_LEVELS_MASKS = 8, 6, 20
"""Most images, most masks of each, and fewest masks in all, on which the levels of tiles around a
click are chosen."""

CLICK_LEVELS = "click_levels"
"""Name of the scores of that choice on a card, a list by number of levels."""

_FORMAT = 10
"""Version of the evaluation and of the stored results' form; part of their key, so that results of
another version are not read."""


class NothingToEvaluateError(DataEngineError):
    """No readable image of a set has annotations: check that the folder and the COCO file belong
    together."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """`scores`: `ClickScores.summary` and the number of images. `by_image`: the values behind the
    means, to compare two models image by image."""

    scores: dict[str, Any]
    by_image: ByImage


def held_out_scores(workspace: Workspace, version: str, dataset: str) -> dict[str, Any]:
    """Return click scores of a model version on the dataset's held-out images with known truth.

    `masks` is 0 if the dataset has no held-out image with truth.
    """
    return held_out(workspace, [version], dataset)[0].scores


def held_out(workspace: Workspace, versions: Sequence[str], dataset: str) -> list[HeldOut]:
    """Return scores of model versions on the same held-out images with known truth.

    The images are part of each stored result's key, and of the `set` that the scores name. The
    scores are written onto the versions' cards.
    """
    chosen = _held_out(workspace, dataset)
    named = json.dumps(
        [
            _FORMAT,
            [(i, len(truths), _digest(truths)) for i, truths in chosen],
            workspace.settings.train.evaluation_masks,
        ]
    )
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    found = []
    for version in versions:
        key = layout.EVALUATION.key(dataset=dataset, version=version, digest=digest)
        if not workspace.objects.exists(key):
            kept = json.dumps(_score_held_out(workspace, version, chosen), sort_keys=True)
            with contextlib.suppress(ObjectExistsError):  # another process was faster
                workspace.objects.put(key, kept.encode())
        values = json.loads(workspace.objects.get(key))
        scores = {**values["scores"], "set": _name_of(dataset, values["scores"], digest)}
        if scores["masks"]:
            workspace.catalog.models.add_scores(version, scores["set"], scores)
        found.append(HeldOut(scores, ByImage.from_dict(values["by_image"])))
    return found


def _digest(truths: Sequence[RLE]) -> str:
    """Digest of the masks: replaced annotations can be equal in number."""
    return hashlib.sha256(b"".join(sorted(rle.counts for rle in truths))).hexdigest()[:16]


def _name_of(dataset: str, scores: dict[str, Any], digest: str) -> str:
    """Name of a set of held-out images; unique, even among sets of equal numbers."""
    images, masks = scores["images"], scores["masks"]
    return f"{dataset}: {images} held-out images, {masks} masks (set {digest[:6]})"


def _score_held_out(
    workspace: Workspace, version: str, chosen: Sequence[tuple[int, list[RLE]]]
) -> dict[str, Any]:
    _choose_click_levels(workspace, version, chosen[:LEVELS_IMAGES])
    with progress.current().track(f"evaluate {version}", len(chosen), "image") as advance:
        found = evaluate_clicks(
            workspace.segmenter(version),
            _stored_images(workspace, chosen, workspace.settings.train.evaluation_masks, advance),
            clicks=HELD_OUT_CLICKS,
        )
    scores = {**found.summary(), "images": len(chosen)}
    return {"scores": scores, "by_image": found.by_image().as_dict()}


def _choose_click_levels(
    workspace: Workspace, version: str, chosen: Sequence[tuple[int, list[RLE]]]
) -> None:
    """Find and keep on how many levels of tiles a version is asked with a click, before its first
    score, unless its input is large or the masks are few. Both sides of a comparison have this
    choice, so it favours neither."""
    segmenter = workspace.segmenter(version)
    card = workspace.catalog.models.get(version).card
    masks = sum(min(len(truths), LEVELS_MASKS) for _, truths in chosen)
    if (
        CLICK_LEVELS in card.get("scores", {})
        or segmenter.side > MOST_SIDE
        or masks < LEAST_LEVELS_MASKS
    ):
        return
    with progress.current().track(f"clicks of {version}", len(chosen), "image") as advance:
        ious = score_click_levels(
            segmenter, _stored_images(workspace, chosen, LEVELS_MASKS, advance)
        )
    levels = best_click_levels(ious)
    found = {"miou_1_click": ious.mean(axis=1).round(4).tolist(), "masks": ious.shape[1]}
    now = workspace.catalog.models.get(version).card  # others may have scored it meanwhile
    scores = {**now.get("scores", {}), CLICK_LEVELS: found}
    workspace.catalog.models.describe(version, {"click_levels": levels, "scores": scores})
    segmenter.click_levels = levels  # this process has loaded it already


def _held_out(workspace: Workspace, dataset: str) -> list[tuple[int, list[RLE]]]:
    """Held-out images with ground truth or masks of people, and those masks."""
    row = workspace.catalog.datasets.get(dataset)
    images = list(workspace.catalog.images.each(row.id, split=Split.HELD_OUT))
    ids = [image.id for image in images]
    truths = {**peoples_masks(workspace, row, ids), **workspace.truths_of(ids)}
    known = [(image.id, truths[image.id]) for image in images if image.id in truths]
    return known[: workspace.settings.train.evaluation_images]


def peoples_masks(
    workspace: Workspace, dataset: Dataset, image_ids: Sequence[int]
) -> dict[int, list[RLE]]:
    """Return people's masks of these images that nobody rejected; images without are left out."""
    rejected = workspace.catalog.verdicts.rejected_mask_ids(dataset.id)
    found: dict[int, list[RLE]] = {}
    for source in PEOPLES:
        for mask in workspace.masks.masks(
            dataset=dataset.name, source=source, image_ids=image_ids, current_only=True
        ):
            if mask.mask_id not in rejected:
                found.setdefault(mask.image_id, []).append(mask.rle)
    return found


def held_out_images(
    workspace: Workspace, datasets: Sequence[str], *, limit: int
) -> list[EvaluationImage]:
    """Return the first `limit` held-out images with all their known masks, one of each dataset in
    turn; broken images are left out."""
    in_turn = zip_longest(*(_held_out(workspace, dataset) for dataset in datasets))
    chosen = [pair for pairs in in_turn for pair in pairs if pair is not None][:limit]
    images: list[EvaluationImage] = []
    for image_id, truths in chosen:
        with contextlib.suppress(BadImageError):
            pixels = workspace.pixels(workspace.catalog.images.get(image_id))
            images.append(EvaluationImage(pixels, truths))
    return images


def _stored_images(
    workspace: Workspace,
    chosen: Sequence[tuple[int, list[RLE]]],
    most_masks: int,
    advance: progress.Advance,
) -> Iterator[EvaluationImage]:
    for image_id, truths in chosen:
        image = workspace.catalog.images.get(image_id)
        yield EvaluationImage(workspace.pixels(image), spread(truths, most_masks))
        advance()


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """A named folder of images with its COCO file; conventions state how to read what COCO leaves
    open."""

    name: str
    images: Path
    coco: Path
    conventions: Conventions = field(default_factory=Conventions)


@dataclass(slots=True)
class LeftOut:
    """Skipped images and annotations of a set, counted as `ingest` counts them."""

    passed_over: PassedOver
    images: int = 0
    problems: list[str] = field(default_factory=list)

    def unreadable(self, name: str, error: Exception) -> None:
        """Count an image that cannot be read."""
        self.images += 1
        self.passed_over.add("images that cannot be read", name)
        self.problems.append(f"{name}: {error}")

    def add(self, name: str, found: ImageAnnotations) -> None:
        """Count the problems of an image's annotations."""
        self.images += not found.masks
        self.passed_over.add_all(name, found.problems)
        self.problems += [f"{name}: {problem}" for problem in found.problems]
        if not found.named and not found.problems:
            self.passed_over.add(NOT_NAMED, name)

    def add_folder_problems(self, found: Input) -> None:
        """Add the problems that concern no image of the folder."""
        self.problems += [f"{name}: the folder cannot be read" for name in found.unreadable]
        self.problems += map(str, found.truth.problems if found.truth else ())
        self.problems += [f"{name}: annotated, but not on disk" for name in found.without_file()]


@dataclass(frozen=True, slots=True)
class _SetScores:
    images: int
    left_out: LeftOut
    clicks: ClickScores
    proposals: ProposalScores

    def summary(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "skipped": self.left_out.images,
            "problems": self.left_out.problems,
            "passed_over": self.left_out.passed_over.rows(),
            **self.clicks.summary(),
            **self.proposals.summary(),
        }


def evaluate_sets(
    segmenter: Segmenter,
    generator: MaskGenerator,
    sets: Sequence[EvaluationSet],
    *,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Return click, box and proposal scores on sets of images.

    Images without annotations, and files that are not images, are skipped and counted.

    Args:
        segmenter: the model.
        generator: makes the model's automatic masks.
        sets: at least one; names are distinct.
        limit: maximum number of images of each set, the first ones.
        max_pixels: larger images are skipped.

    Returns:
        `model`, `interval` (how the intervals are computed), and for a single set `set` (its name)
        and its scores; for several sets `sets` (scores by name) and `mean` over the sets.

    Raises:
        NothingToEvaluateError: a set has no image with annotations.
        BadAnnotationsError: a COCO file is invalid.
    """
    scored = {item.name: _score_set(segmenter, generator, item, limit, max_pixels) for item in sets}
    head = {
        "model": segmenter.version,
        "interval": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "resampled": "images"},
    }
    by_name = {name: scores.summary() for name, scores in scored.items()}
    if len(by_name) == 1:
        ((name, only),) = by_name.items()
        return {**head, "set": name, **only}
    return {**head, "sets": by_name, "mean": _mean(list(scored.values()), list(by_name.values()))}


def _mean(scored: list[_SetScores], summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over sets of equal weight; figures that are not means have no interval."""
    plain = ("predicted_iou_correlation", "predicted_iou_error", "ap", "ap_50", "ap_75")
    return {
        "noc_cap": summaries[0]["noc_cap"],
        **mean_of_sets([scores.clicks.by_image() for scores in scored]),
        **mean_of_sets([scores.proposals.by_image for scores in scored]),
        **{name: float(np.mean([scores[name] for scores in summaries])) for name in plain},
    }


def _score_set(
    segmenter: Segmenter,
    generator: MaskGenerator,
    chosen: EvaluationSet,
    limit: int | None,
    max_pixels: int,
) -> _SetScores:
    found = scan_folder(chosen.images, chosen.coco, chosen.conventions)
    pairs = list(zip(found.files, found.names, strict=True))[:limit]
    reporter, left_out = progress.current(), LeftOut(found.passed_over)
    with reporter.track(f"{chosen.name}: clicks", len(pairs), "image") as advance:
        images = (
            EvaluationImage(pixels, rles)
            for pixels, rles in annotated(
                pairs, found.truth, left_out, advance, max_pixels=max_pixels
            )
        )
        clicks = evaluate_clicks(segmenter, images)
    left_out.add_folder_problems(found)
    if not clicks.box:
        reasons = "; ".join(left_out.problems[:3])
        raise NothingToEvaluateError(
            f"set {chosen.name!r}: none of {len(pairs)} images in {chosen.images} is readable and "
            f"has annotations in {chosen.coco}" + (f": {reasons}" if reasons else "")
        )
    truths: list[list[RLE]] = []
    made: list[list[tuple[RLE, float]]] = []
    with reporter.track(f"{chosen.name}: automatic masks", len(pairs), "image") as advance:
        again = LeftOut(PassedOver())
        for pixels, rles in annotated(pairs, found.truth, again, advance, max_pixels=max_pixels):
            truths.append(rles)
            masks = generator.generate(pixels)
            made.append([(m.rle, (m.predicted_iou + m.stability_score) / 2) for m in masks])
    return _SetScores(len(truths), left_out, clicks, evaluate_proposals(truths, made))


def annotated(
    pairs: Sequence[tuple[Path, str]],
    truth: CocoDataset | None,
    left_out: LeftOut,
    advance: progress.Advance,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Iterable[tuple[Any, list[RLE]]]:
    """Yield pixels, RGB uint8 (H, W, 3), and masks of each image that has any; count the others in
    `left_out`. Calls `advance` once per image."""
    for path, name in pairs:
        try:
            data = path.read_bytes()
            info = inspect_image(data, max_pixels=max_pixels)
            pixels = read_image(data, max_pixels=max_pixels)
        except (BadImageError, OSError) as error:
            left_out.unreadable(name, error)
        else:
            assert truth is not None
            picture = Picture((info.height, info.width), info.orientation)
            found = truth.find(name, picture, hashlib.sha256(data).hexdigest())
            left_out.add(name, found)
            if found.masks:
                yield pixels, found.masks
        advance()
