"""The difference of two releases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.core import rle as rle_codec
from storage.release_diff import compare
from storage.release_files import (
    CATEGORIES_FILE,
    IMAGES_FILE,
    IMAGES_SCHEMA,
    MASKS_SCHEMA,
    MaskFiles,
    MaskFilesWriter,
    RowsWriter,
)

SIZE = (60, 80)


def mask_row(
    mask_id: str,
    image: int,
    place: int = 0,
    *,
    side: int = 8,
    category: int | None = None,
    supersedes: str | None = None,
    source: str = "automatic",
) -> dict[str, Any]:
    """A square mask; those of different places do not touch."""
    mask = np.zeros(SIZE, bool)
    mask[10 : 10 + side, 10 * place : 10 * place + 8] = True
    rle = rle_codec.encode(mask)
    return {
        **{"mask_id": mask_id, "image_id": image, "dataset": "d", "stage": "fully_automatic"},
        **{"round": 1, "run_id": "r", "shard": 0, "model": "m", "source": source},
        **{"height": SIZE[0], "width": SIZE[1], "counts": rle.counts, "area": int(mask.sum())},
        **{"bbox_x": 10 * place, "bbox_y": 10, "bbox_w": 8, "bbox_h": side},
        **{"clicks": 0, "seconds": 0.0, "supersedes": supersedes, "category_id": category},
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }


def image_row(image: int, masks: int) -> dict[str, Any]:
    """An image's row."""
    return {
        **{"image_id": image, "file_name": f"{image}.png", "sha256": "0" * 64, "key": "images/x"},
        **{"height": SIZE[0], "width": SIZE[1], "split": "train", "status": "generated"},
        "masks": masks,
    }


def files(
    folder: Path, rows: Sequence[dict[str, Any]], categories: Sequence[str] = (), first: int = 1
) -> MaskFiles:
    """A release of these masks, whose category ids count from `first`."""
    folder.mkdir()
    names = [IMAGES_FILE, CATEGORIES_FILE]
    images = sorted({row["image_id"] for row in rows})
    with MaskFilesWriter(folder, 1) as masks, RowsWriter(folder / IMAGES_FILE, IMAGES_SCHEMA) as to:
        for image in images:
            mine = [row for row in rows if row["image_id"] == image]
            masks.write(pa.Table.from_pylist(mine, MASKS_SCHEMA))
            to.write(pa.Table.from_pylist([image_row(image, len(mine))], IMAGES_SCHEMA))
    listed = [{"id": n, "name": name} for n, name in enumerate(categories, first)]
    (folder / CATEGORIES_FILE).write_text(json.dumps({"categories": listed}))
    return MaskFiles([*names, *masks.names], folder.joinpath)


def test_masks_are_matched_by_id_then_by_what_they_supersede_then_by_overlap(
    tmp_path: Path,
) -> None:
    old = files(
        tmp_path / "old",
        [
            mask_row("same", 1, 0),
            mask_row("fixed", 1, 1),
            mask_row("again", 1, 2),
            mask_row("gone", 1, 3),
            mask_row("left", 2, 0),
        ],
    )
    new = files(
        tmp_path / "new",
        [
            mask_row("same", 1, 0),
            mask_row("fix", 1, 1, side=2, supersedes="fixed", source="annotator"),
            mask_row("better", 1, 2, side=6),
            mask_row("fresh", 1, 5),
            mask_row("more", 3, 0),
        ],
    )
    for range_masks in (1, 100_000):
        found = compare(old, new, range_masks=range_masks).as_json()
        assert found["images"] == {"both": 1, "added": 1, "removed": 1}
        assert found["masks"] == {
            **{"unchanged": 1, "added": 2, "removed": 2, "changed": 2, "relabelled": 0}
        }
        # IoU 2/8 of the fix, 6/8 of the one that was made again
        assert found["iou"]["counts"] == [1, 0, 0, 1, 0, 0, 0]
        assert found["iou"]["mean"] == 0.5
        by_source = {row["source"]: row for row in found["groups"]}
        assert by_source["annotator"]["changed"] == 1
        assert by_source["automatic"]["changed"] == 1
        assert by_source["automatic"]["removed"] == 2


def test_two_masks_are_never_matched_with_one(tmp_path: Path) -> None:
    old = files(tmp_path / "old", [mask_row("a", 1), mask_row("b", 1, side=7)])
    new = files(tmp_path / "new", [mask_row("c", 1, side=7)])
    found = compare(old, new).as_json()
    assert (found["masks"]["changed"], found["masks"]["removed"]) == (1, 1)
    assert found["iou"]["mean"] == 1.0  # the better pair


def test_labels_are_compared_by_name_whatever_their_ids(tmp_path: Path) -> None:
    old = files(
        tmp_path / "old",
        [
            mask_row("cat", 1, 0, category=1),
            mask_row("dog", 1, 1, category=2),
            mask_row("bare", 1, 2),
            mask_row("shrunk", 1, 3, category=1),
        ],
        ["cat", "dog"],
    )
    new = files(
        tmp_path / "new",
        [
            mask_row("cat", 1, 0, category=11),
            mask_row("dog", 1, 1, category=11),
            mask_row("bare", 1, 2, category=12),
            mask_row("smaller", 1, 3, side=6, category=12),
        ],
        ["cat", "dog"],
        first=11,
    )
    found = compare(old, new).as_json()
    assert (found["masks"]["unchanged"], found["masks"]["changed"]) == (3, 1)
    assert found["masks"]["relabelled"] == 3
    assert {(one["from"], one["to"], one["masks"]) for one in found["labels"]} == {
        ("dog", "cat", 1),
        (None, "dog", 1),
        ("cat", "dog", 1),
    }


def test_empty_releases_differ_in_nothing(tmp_path: Path) -> None:
    both = [files(tmp_path / name, []) for name in "ab"]
    found = compare(*both).as_json()
    assert sum(found["masks"].values()) == sum(found["images"].values()) == 0
    assert found["iou"]["mean"] is None
