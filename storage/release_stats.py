"""Figures of a release's masks, from its Parquet files, column by column.

They are those of SAM's paper (arXiv 2304.02643, section 5): masks per image, relative size
sqrt(mask area / image area), concavity 1 - mask area / area of its convex hull, and centres; and
histograms of scores. A centre is the one of the mask's box.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.rle import RLE
from storage.formats.segmentation import run_lengths
from storage.release_files import MaskFiles

PER_IMAGE_EDGES = (1, 10, 50, 100, 200, 300, 400, 500)
"""Of the bins of masks per image; the last has no upper end. From 50 those of SA-1B's gallery."""
SIZE_EDGES = tuple(round(n / 20, 2) for n in range(21))
"""Of relative mask size."""
SCORE_EDGES = tuple(round(n / 50, 2) for n in range(51))
CONCAVITY_SIZES = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
"""Relative sizes within which concavity is sampled."""
SAMPLE = 400
"""Masks per range of sizes whose concavity is measured."""
CELLS = 16
"""The map of centres has this many rows and columns."""

COLUMNS = ["image_id", "height", "width", "area", "stage", "source", "model", "annotator"]
COLUMNS += ["category_id", "predicted_iou", "stability_score"]
COLUMNS += [f"bbox_{side}" for side in "xywh"]
GROUPS = ["stage", "source", "model", "annotator"]


@dataclass(slots=True)
class _Sums:
    """What one pass over the masks adds up."""

    sizes: np.ndarray
    centres: np.ndarray
    scores: dict[str, np.ndarray]
    size_sum: float
    provenance: Counter[tuple[str | None, ...]]
    categories: Counter[int | None]
    size_bins: list[np.ndarray]


def mask_stats(files: MaskFiles, *, sample: int = SAMPLE, seed: int = 0) -> dict[str, Any]:
    """Return the figures as JSON values.

    Args:
        files: of the release.
        sample: masks per range of sizes whose concavity is measured.
        seed: of the sample.

    Returns:
        `images`, `masks`; `per_image`, `size`, `predicted_iou`, `stability_score`: `edges`,
        `counts` and `mean`; `centres`: rows of counts, from the top; `concavity`: per range of
        relative sizes `low`, `high`, `masks` measured, quartiles; `provenance`: masks per stage,
        source, model and annotator; `categories`: masks by name; `images_by`: split and status;
        `near_duplicates`.

    Raises:
        ReleaseFileError: a file is damaged.
    """
    images = files.images()
    sums = _summed(files)
    masks = int(sums.sizes.sum())
    worked_on = images.filter(pc.not_equal(images.column("status"), "neither"))
    per_image = worked_on.column("masks").to_numpy()
    names = files.categories()
    return {
        "images": worked_on.num_rows,
        "masks": masks,
        "per_image": {
            "edges": list(PER_IMAGE_EDGES),
            "counts": _in_bins(per_image[per_image > 0], PER_IMAGE_EDGES),
            "without": int((per_image == 0).sum()),
            "mean": float(per_image.mean()) if len(per_image) else None,
            "median": float(np.median(per_image)) if len(per_image) else None,
        },
        "size": {
            "edges": list(SIZE_EDGES),
            "counts": sums.sizes.tolist(),
            "mean": sums.size_sum / masks if masks else None,
        },
        "centres": sums.centres.tolist(),
        **{name: _histogram(counts) for name, counts in sums.scores.items()},
        "concavity": _concavity(files, sums.size_bins, sample, seed),
        "provenance": [
            {**dict(zip(GROUPS, group, strict=True)), "masks": count}
            for group, count in sums.provenance.most_common()
        ],
        "categories": {
            names[number]: count
            for number, count in sums.categories.most_common()
            if number is not None and number in names
        },
        "unlabelled": sums.categories[None] if names else None,
        "images_by": {
            name: dict(Counter(images.column(name).to_pylist())) for name in ("split", "status")
        },
        "near_duplicates": images.num_rows - images.column("near_image_id").null_count,
    }


def _summed(files: MaskFiles) -> _Sums:
    sums = _Sums(
        np.zeros(len(SIZE_EDGES) - 1, np.int64),
        np.zeros((CELLS, CELLS), np.int64),
        {
            name: np.zeros(len(SCORE_EDGES) - 1, np.int64)
            for name in ("predicted_iou", "stability_score")
        },
        0.0,
        Counter(),
        Counter(),
        [],
    )
    for batch in files.batches(COLUMNS):
        rows = pa.Table.from_batches([batch])
        column = {
            name: rows.column(name).to_numpy()
            for name in ("height", "width", "area", *(f"bbox_{side}" for side in "xywh"))
        }
        frame = column["height"].astype(np.float64) * column["width"]
        size = np.sqrt(column["area"] / frame)
        sums.sizes += np.histogram(size, SIZE_EDGES)[0]
        sums.size_sum += float(size.sum())
        places = np.searchsorted(CONCAVITY_SIZES, size, side="right") - 1
        sums.size_bins.append(np.clip(places, 0, len(CONCAVITY_SIZES) - 2).astype(np.uint8))
        y = (column["bbox_y"] + column["bbox_h"] / 2) / column["height"]
        x = (column["bbox_x"] + column["bbox_w"] / 2) / column["width"]
        sums.centres += np.histogram2d(y, x, CELLS, ((0, 1), (0, 1)))[0].astype(np.int64)
        for name, counts in sums.scores.items():
            known = rows.column(name).drop_null().to_numpy()
            counts += np.histogram(np.clip(known, 0, 1), SCORE_EDGES)[0]
        for group in (GROUPS, ["category_id"]):
            grouped = rows.group_by(group).aggregate([([], "count_all")]).to_pydict()
            numbers = grouped.pop("count_all")
            for key, count in zip(zip(*grouped.values(), strict=True), numbers, strict=True):
                if group is GROUPS:
                    sums.provenance[key] += count
                else:
                    sums.categories[key[0]] += count
    return sums


def _in_bins(values: np.ndarray, edges: tuple[int, ...]) -> list[int]:
    """Counts of values from each edge to the next, the last without an upper end."""
    found: list[int] = np.histogram(values, [*edges, np.inf])[0].tolist()
    return found


def _histogram(counts: np.ndarray) -> dict[str, Any]:
    middles = np.add(SCORE_EDGES[1:], SCORE_EDGES[:-1]) / 2
    total = int(counts.sum())
    mean = float((counts * middles).sum() / total) if total else None
    return {"edges": list(SCORE_EDGES), "counts": counts.tolist(), "mean": mean}


def _concavity(
    files: MaskFiles, size_bins: list[np.ndarray], sample: int, seed: int
) -> list[dict[str, Any]]:
    """Concavity of masks drawn evenly from each range of sizes."""
    bins = np.concatenate(size_bins) if size_bins else np.zeros(0, np.uint8)
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(bins), bool)
    for number in range(len(CONCAVITY_SIZES) - 1):
        places = np.flatnonzero(bins == number)
        chosen[rng.permutation(places)[:sample]] = True
    values: list[list[float]] = [[] for _ in CONCAVITY_SIZES[1:]]
    start = 0
    for batch in files.batches(["height", "width", "counts", "area"]):
        places = np.flatnonzero(chosen[start : start + batch.num_rows])
        for place, row in zip(places, batch.take(pa.array(places)).to_pylist(), strict=True):
            rle = RLE(size=(row["height"], row["width"]), counts=row["counts"])
            values[bins[start + place]].append(concavity(rle, row["area"]))
        start += batch.num_rows
    return [
        {
            "low": low,
            "high": high,
            "masks": len(some),
            "quartiles": np.quantile(some, (0.25, 0.5, 0.75)).tolist() if some else None,
        }
        for low, high, some in zip(CONCAVITY_SIZES, CONCAVITY_SIZES[1:], values, strict=False)
    ]


def concavity(rle: RLE, area: int) -> float:
    """1 - area / area of the convex hull of the mask's pixels, from 0 (convex) to 1.

    Raises:
        ValueError: the run lengths cannot be read, or the mask is empty.
    """
    height = rle.size[0]
    ends = np.cumsum(run_lengths(rle))
    starts, stops = ends[0::2][: len(ends[1::2])], ends[1::2]
    if not len(starts):
        raise ValueError("an empty mask has no convex hull")
    (first, top), (last, low) = np.divmod(starts, height), np.divmod(stops - 1, height)
    spans = last > first  # through the bottom of a column to the top of the next
    low_of_first = np.where(spans, height, low + 1)
    points = [(first, top), (first, low_of_first)]
    points += [(last[spans], 0 * last[spans]), (last[spans], low[spans] + 1)]
    wide = last - first > 1  # whole columns between
    for column in ((first + 1)[wide], (last - 1)[wide]):
        points += [(column, 0 * column), (column, 0 * column + height)]
    x, y = (np.concatenate(one) for one in zip(*points, strict=True))
    corners = np.stack([np.concatenate([x, x + 1]), np.concatenate([y, y])], 1)
    hull = cv2.convexHull(corners.astype(np.float32).reshape(-1, 1, 2))
    return max(0.0, 1.0 - area / cv2.contourArea(hull))
