"""Scores of a model version on held-out images, computed once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.automatic import MaskGenerator
from engine.core.rle import RLE
from engine.evaluation.clicks import EvaluationImage, evaluate_clicks
from engine.evaluation.proposals import score_proposals
from engine.sam import Segmenter
from flows import progress
from flows.wiring import Workspace
from storage.catalog import Split
from storage.formats.coco import read_coco
from storage.formats.images import BadImageError, list_images, read_image

HELD_OUT_CLICKS = (1, 2, 3)
"""Clicks after which a round's model is scored: enough to compare models, quick enough to do after
every round."""


def held_out_scores(workspace: Workspace, version: str, dataset: str) -> dict[str, Any]:
    """Click scores of a model version on the dataset's held-out images with known truth.

    Which images those are is part of the key under which the result is kept. `masks` is 0 where
    the dataset has no held-out image with truth.
    """
    chosen = _held_out(workspace, dataset)
    settings = workspace.settings.train
    named = json.dumps([[i for i, _ in chosen], settings.evaluation_masks])
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    key = f"evaluations/{dataset}/{version}/{digest}.json"
    if workspace.objects.exists(key):
        scores: dict[str, Any] = json.loads(workspace.objects.get(key))
        return scores
    with progress.current().track(f"evaluate {version}", len(chosen), "image") as advance:
        images = _stored_images(workspace, chosen, advance)
        found = evaluate_clicks(
            workspace.segmenter(version),
            images,
            clicks=HELD_OUT_CLICKS,
            max_masks_per_image=settings.evaluation_masks,
        ).summary()
    scores = {**found, "images": len(chosen)}
    workspace.objects.put(key, json.dumps(scores, sort_keys=True).encode())
    return scores


def _held_out(workspace: Workspace, dataset: str) -> list[tuple[int, list[RLE]]]:
    """Held-out images that came with masks, and those masks."""
    row = workspace.catalog.datasets.get(dataset)
    images = list(workspace.catalog.images.each(row.id, split=Split.HELD_OUT))
    truths = workspace.truths_of([image.id for image in images])
    known = [(image.id, truths[image.id]) for image in images if image.id in truths]
    return known[: workspace.settings.train.evaluation_images]


def _stored_images(
    workspace: Workspace, chosen: Sequence[tuple[int, list[RLE]]], advance: progress.Advance
) -> Iterator[EvaluationImage]:
    for image_id, truths in chosen:
        image = workspace.catalog.images.get(image_id)
        # a spread of the masks, not the first ones
        step = max(1, len(truths) // workspace.settings.train.evaluation_masks)
        yield EvaluationImage(workspace.pixels(image), truths[::step])
        advance()


def evaluate_folder(
    segmenter: Segmenter,
    generator: MaskGenerator,
    folder: Path,
    coco: Path,
    *,
    limit: int | None = None,
    max_masks_per_image: int | None = None,
) -> dict[str, Any]:
    """Click and proposal scores on a folder of images with COCO annotations.

    Images without annotations, and files that are no images, are passed over and counted.
    """
    files = list(list_images(folder))
    names = [path.relative_to(folder).as_posix() for path in files]
    truth = read_coco(coco, names)
    pairs = list(zip(files, names, strict=True))[:limit]
    reporter, skipped = progress.current(), [0]
    with reporter.track("clicks", len(pairs), "image") as advance:
        images = (
            EvaluationImage(pixels, rles)
            for pixels, rles in _annotated(pairs, truth, skipped, advance)
        )
        clicks = evaluate_clicks(
            segmenter, images, clicks=(1, 2, 3, 5), max_masks_per_image=max_masks_per_image
        ).summary()
    truths: list[list[RLE]] = []
    found: list[list[tuple[RLE, float]]] = []
    with reporter.track("automatic masks", len(pairs), "image") as advance:
        for pixels, rles in _annotated(pairs, truth, [0], advance):
            truths.append(rles)
            masks = generator.generate(pixels)
            found.append([(m.rle, (m.predicted_iou + m.stability_score) / 2) for m in masks])
    scores = score_proposals(truths, found)
    return {
        "model": segmenter.version,
        "images": len(truths),
        "skipped": skipped[0],
        **clicks,
        **scores,
    }


def _annotated(
    pairs: Sequence[tuple[Path, str]], truth: Any, skipped: list[int], advance: progress.Advance
) -> Iterable[tuple[Any, list[RLE]]]:
    for path, name in pairs:
        try:
            pixels = read_image(path.read_bytes())
        except (BadImageError, OSError):
            skipped[0] += 1
        else:
            rles, _ = truth.masks_for(name, pixels.shape[:2])
            if rles:
                yield pixels, rles
            else:
                skipped[0] += 1
        advance()
