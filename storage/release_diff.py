"""Compares two releases: masks added, removed and changed, and labels.

A mask with the same id in both is unchanged, because masks never change. Of the others, two masks
of one image are one changed mask if the new one supersedes the old one, or else if they overlap by
CHANGED_IOU or more, the best pairs first. The rest was added or removed.

A = masks of an image in the first release, B = in the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.boxes import masks_may_overlap
from engine.core.rle import RLE, iou_matrix
from storage.mask_rows import boxes_xyxy
from storage.release_files import MaskFiles

CHANGED_IOU = 0.5
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Of the histogram of IoU; the last bin includes its upper edge."""
RANGE_MASKS = 100_000
"""Masks of both releases that are compared at once."""
PAIRS_TOLD = 50
"""Changes of labels that the result lists, the most frequent ones."""

NARROW = ["mask_id", "image_id", "stage", "source", "category_id", "supersedes"]
SHAPES = ["mask_id", "image_id", "height", "width", "counts", "area"]
SHAPES += [f"bbox_{side}" for side in "xywh"]
KINDS = ("unchanged", "added", "removed", "changed", "relabelled")


@dataclass(slots=True)
class Diff:
    """The difference of two releases."""

    images: Counter[str] = field(default_factory=Counter)
    """`added`, `removed`, `both`."""
    masks: Counter[str] = field(default_factory=Counter)
    """By KINDS; a relabelled mask is also unchanged or changed."""
    groups: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    """The same by stage and source; of a changed mask, those of the new one."""
    labels: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    """Relabelled masks by old and new category; None: no category."""
    bins: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))
    """Changed masks by IoU with the old one, in the bins of EDGES."""
    iou_sum: float = 0.0

    def count(self, kind: str, stages: pa.ChunkedArray, sources: pa.ChunkedArray) -> None:
        """Add masks of a kind."""
        if not len(stages):
            return
        grouped = pa.table({"stage": stages, "source": sources}).group_by(["stage", "source"])
        for row in grouped.aggregate([([], "count_all")]).to_pylist():
            group = self.groups.setdefault((row["stage"], row["source"]), Counter())
            group[kind] += row["count_all"]
            self.masks[kind] += row["count_all"]

    def as_json(self) -> dict[str, Any]:
        """The difference as JSON values; `mean_iou` is None without changed masks."""
        changed = self.masks["changed"]
        return {
            "images": {name: self.images[name] for name in ("both", "added", "removed")},
            "masks": {kind: self.masks[kind] for kind in KINDS},
            "iou": {
                "edges": list(EDGES),
                "counts": self.bins.tolist(),
                "mean": self.iou_sum / changed if changed else None,
            },
            "labels": [
                {"from": old, "to": new, "masks": number}
                for (old, new), number in self.labels.most_common(PAIRS_TOLD)
            ],
            "groups": [
                {"stage": stage, "source": source, **{kind: counts[kind] for kind in KINDS}}
                for (stage, source), counts in sorted(self.groups.items())
            ],
        }


def compare(
    first: MaskFiles,
    second: MaskFiles,
    *,
    range_masks: int = RANGE_MASKS,
    on_images: Callable[[int], None] = lambda images: None,
) -> Diff:
    """Compare two releases of one dataset, some images at a time.

    Args:
        first: the older one.
        second: the newer one.
        range_masks: masks of both to hold at once, more if one image has more.
        on_images: called with the number of images that were compared since the last call.

    Raises:
        ReleaseFileError: a file is damaged.
    """
    found, names = Diff(), (first.categories(), second.categories())
    for start, end, images in _ranges(first, second, range_masks, found.images):
        both = [files.masks(NARROW, first=start, last=end) for files in (first, second)]
        old, new = (_with_names(rows, known) for rows, known in zip(both, names, strict=True))
        left_old, left_new = _same(found, old, new)
        shared = np.intersect1d(
            left_old.column("image_id").to_numpy(), left_new.column("image_id").to_numpy()
        )
        pairs = _Pairs()
        if len(shared):
            shapes = [
                _shapes(files, left, shared, start, end)
                for files, left in ((first, left_old), (second, left_new))
            ]
            pairs = _matched(*shapes)
        _count_left(found, left_old, left_new, pairs)
        on_images(images)
    return found


def _ranges(
    first: MaskFiles, second: MaskFiles, range_masks: int, images: Counter[str]
) -> Iterator[tuple[int, int, int]]:
    """Yield ranges of image ids, first and last, with their number of images; count the images."""
    columns = [
        [files.images().column(name).to_numpy() for name in ("image_id", "masks")]
        for files in (first, second)
    ]
    (old, old_masks), (new, new_masks) = columns
    ids, places = np.unique(np.concatenate([old, new]), return_inverse=True)
    masks = np.bincount(places, np.concatenate([old_masks, new_masks]), len(ids))
    both = len(old) + len(new) - len(ids)
    images.update(both=both, added=len(new) - both, removed=len(old) - both)
    part = np.cumsum(masks) // range_masks
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    for start, end in zip(starts, np.append(starts[1:], len(ids)), strict=False):
        yield int(ids[start]), int(ids[end - 1]), int(end - start)


def _with_names(rows: pa.Table, categories: dict[int, str]) -> pa.Table:
    """The rows with the categories' names instead of ids, which differ between lists."""
    place = rows.schema.get_field_index("category_id")
    numbers = pa.array(list(categories), pa.int32())
    known = pc.index_in(rows.column("category_id"), numbers)
    named = pa.array(list(categories.values()), pa.string()).take(known.combine_chunks())
    return rows.set_column(place, "category", named)


def _same(found: Diff, old: pa.Table, new: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Count the masks that both have; return the others."""
    place = pc.index_in(new.column("mask_id"), old.column("mask_id"))
    is_same = pc.is_valid(place)
    kept = new.filter(is_same)
    before = old.column("category").take(place.filter(is_same))
    found.count("unchanged", kept.column("stage"), kept.column("source"))
    _count_labels(found, before, kept)
    is_left = pc.invert(pc.is_in(old.column("mask_id"), new.column("mask_id")))
    return old.filter(is_left), new.filter(pc.invert(is_same))


def _count_labels(found: Diff, before: pa.ChunkedArray, after: pa.Table) -> None:
    """Count the masks whose category differs from the one before."""
    now = after.column("category")
    none = pa.scalar("")  # no category has an empty name
    differs = pc.not_equal(pc.fill_null(before, none), pc.fill_null(now, none))
    if not pc.any(differs).as_py():
        return
    moved = after.filter(differs)
    found.count("relabelled", moved.column("stage"), moved.column("source"))
    found.labels.update(
        zip(before.filter(differs).to_pylist(), moved.column("category").to_pylist(), strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Changed masks: ids of old and new ones, and the IoU of each pair."""

    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)


def _count_left(found: Diff, old: pa.Table, new: pa.Table, pairs: _Pairs) -> None:
    """Count the masks that only one has, of which `pairs` are changed ones."""
    is_pair = [
        pc.is_in(rows.column("mask_id"), pa.array(ids, pa.string()))
        for rows, ids in ((old, pairs.old), (new, pairs.new))
    ]
    gone, fresh = old.filter(pc.invert(is_pair[0])), new.filter(pc.invert(is_pair[1]))
    found.count("removed", gone.column("stage"), gone.column("source"))
    found.count("added", fresh.column("stage"), fresh.column("source"))
    if not pairs.new:
        return
    places = pc.index_in(pa.array(pairs.new, pa.string()), new.column("mask_id"))
    origins = pc.index_in(pa.array(pairs.old, pa.string()), old.column("mask_id"))
    changed = new.take(places)
    found.count("changed", changed.column("stage"), changed.column("source"))
    _count_labels(found, old.column("category").take(origins), changed)
    found.bins += np.histogram(pairs.iou, EDGES)[0]
    found.iou_sum += float(np.sum(pairs.iou))


def _shapes(files: MaskFiles, left: pa.Table, shared: np.ndarray, start: int, end: int) -> pa.Table:
    """The shapes of left masks on shared images, by image, with the masks that they supersede."""
    mine = left.filter(pc.is_in(left.column("image_id"), pa.array(shared)))
    shapes = files.masks(SHAPES, first=start, last=end)
    places = pc.index_in(mine.column("mask_id"), shapes.column("mask_id"))
    return shapes.take(places).append_column("supersedes", mine.column("supersedes"))


def _matched(old: pa.Table, new: pa.Table) -> _Pairs:
    """Pair masks of the same images; both tables are sorted by image."""
    pairs = _Pairs()
    olds, news = _Shapes(old), _Shapes(new)
    for image in np.unique(olds.image):
        _match_image(olds.of(int(image)), news.of(int(image)), olds, news, pairs)
    return pairs


class _Shapes:
    """Columns of shapes as arrays."""

    def __init__(self, rows: pa.Table) -> None:
        columns = {name: rows.column(name).to_numpy() for name in SHAPES[1:] if name != "counts"}
        self.image, self.area = columns["image_id"], columns["area"]
        self.boxes = boxes_xyxy(rows)
        self.size = np.stack([columns["height"], columns["width"]], 1)
        self.counts = rows.column("counts").to_pylist()
        self.ids = rows.column("mask_id").to_pylist()
        self.supersedes = rows.column("supersedes").to_pylist()

    def of(self, image: int) -> np.ndarray:
        """The places of an image's masks."""
        start, end = np.searchsorted(self.image, [image, image + 1])
        return np.arange(start, end)

    def rle(self, place: int) -> RLE:
        """One mask."""
        height, width = self.size[place].tolist()
        return RLE(size=(height, width), counts=self.counts[place])


def _match_image(
    mine_A: np.ndarray, mine_B: np.ndarray, olds: _Shapes, news: _Shapes, pairs: _Pairs
) -> None:
    """Add the pairs of one image."""
    number = {olds.ids[place]: n for n, place in enumerate(mine_A)}
    follows = [
        (number[origin], n)
        for n, place in enumerate(mine_B)
        if (origin := news.supersedes[place]) in number
    ]
    can_AB = masks_may_overlap(
        *(olds.boxes[mine_A], olds.area[mine_A]),
        *(news.boxes[mine_B], news.area[mine_B]),
        CHANGED_IOU,
    )
    for a, b in follows:
        can_AB[a, b] = True
    rows, columns = np.flatnonzero(can_AB.any(1)), np.flatnonzero(can_AB.any(0))
    if not len(rows):
        return
    iou_AB = np.zeros(can_AB.shape)
    iou_AB[np.ix_(rows, columns)] = iou_matrix(
        [olds.rle(mine_A[n]) for n in rows], [news.rle(mine_B[n]) for n in columns]
    )
    near = np.argwhere(can_AB & (iou_AB >= CHANGED_IOU))
    ordered = near[np.argsort(-iou_AB[near[:, 0], near[:, 1]], kind="stable")]
    used_A, used_B = set[int](), set[int]()
    for a, b in [*follows, *ordered.tolist()]:
        if a in used_A or b in used_B:
            continue
        used_A.add(a)
        used_B.add(b)
        pairs.old.append(olds.ids[mine_A[a]])
        pairs.new.append(news.ids[mine_B[b]])
        pairs.iou.append(float(iou_AB[a, b]))
