"""Masks as Arrow rows and Parquet files: the columns of the mask table.

Boxes are half-open pixel XYXY in a Mask and x, y, w, h in a row; both, like points (x, y) and
sizes (H, W), in the frame of the original image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.core.records import Mask, Source, Stage
from engine.core.rle import RLE

SCHEMA = pa.schema(
    [
        pa.field("mask_id", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("annotator", pa.string()),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("counts", pa.binary(), nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        *(pa.field(f"bbox_{side}", pa.int32(), nullable=False) for side in "xywh"),
        pa.field("predicted_iou", pa.float32()),
        pa.field("stability_score", pa.float32()),
        pa.field("point_x", pa.float32()),
        pa.field("point_y", pa.float32()),
        *(pa.field(f"crop_{side}", pa.int32()) for side in "xywh"),
        pa.field("clicks", pa.int32(), nullable=False),
        pa.field("seconds", pa.float32(), nullable=False),
        pa.field("supersedes", pa.string()),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""The columns of the table and of `write_parquet`. `counts` is COCO's compressed RLE."""

ROW_GROUP_ROWS = 16_384
"""A few megabytes of encoded masks."""
MAX_INT32 = 2**31 - 1


def to_batch(masks: Iterable[Mask]) -> pa.RecordBatch:
    """The masks as rows of SCHEMA, in their order.

    Raises:
        ValueError: a mask has an impossible size, area or box, a score that is not finite, or a
            time without a zone; the message names it.
    """
    checked = list(masks)
    for mask in checked:
        for fault in _faults(mask):
            raise ValueError(f"mask {mask.mask_id!r}: {fault}")
    return pa.RecordBatch.from_pydict(columns_of(checked), schema=SCHEMA)


def from_batch(batch: pa.RecordBatch | pa.Table) -> list[Mask]:
    """The rows as masks, in their order; `created_at` in UTC.

    Raises:
        ValueError: a column of SCHEMA is missing or has another type.
    """
    if missing := set(SCHEMA.names) - set(batch.schema.names):
        raise ValueError(f"not a table of masks: it lacks {sorted(missing)}")
    exact = batch.select(SCHEMA.names).cast(SCHEMA)
    columns = [column.to_pylist() for column in exact.columns]
    return [_mask(dict(zip(SCHEMA.names, row, strict=True))) for row in zip(*columns, strict=True)]


def boxes_xyxy(rows: pa.Table) -> np.ndarray:
    """The boxes of rows with the columns `bbox_x` to `bbox_h`: half-open pixel XYXY, int64
    (N, 4)."""
    x, y, w, h = (rows.column(f"bbox_{side}").to_numpy().astype(np.int64) for side in "xywh")
    return np.stack([x, y, x + w, y + h], axis=1)


def write_parquet(masks: Iterable[Mask]) -> bytes:
    """The masks as one Parquet file with the columns of SCHEMA; errors as in `to_batch`."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_batches([to_batch(masks)])
    pq.write_table(
        table, sink, compression="zstd", compression_level=3, row_group_size=ROW_GROUP_ROWS
    )
    return bytes(sink.getvalue())


def read_parquet(data: bytes) -> list[Mask]:
    """The masks that `write_parquet` wrote.

    Raises:
        ValueError: `data` is not a Parquet file or has other columns.
    """
    try:
        return from_batch(pq.read_table(pa.BufferReader(data)))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a Parquet file of masks: {error}") from error


def _faults(mask: Mask) -> Iterator[str]:
    """The faults of a mask, worst first."""
    height, width = size = mask.rle.size
    if not mask.mask_id or mask.supersedes == mask.mask_id:
        yield f"its id is empty or the one it supersedes, {mask.supersedes!r}"
    if not (0 < height <= MAX_INT32 and 0 < width <= MAX_INT32 and mask.rle.counts):
        yield f"size {size} is not positive int32, or its RLE is empty"
    if not 0 <= mask.area <= height * width:
        yield f"area {mask.area} does not fit into {size}"
    if not _inside(mask.box_xyxy, size):
        yield f"box {mask.box_xyxy} is not inside {size}"
    if mask.crop_xyxy is not None and not _inside(mask.crop_xyxy, size):
        yield f"crop {mask.crop_xyxy} is not inside {size}"
    for number in (mask.predicted_iou, mask.stability_score, *(mask.point_xy or ())):
        if number is not None and not math.isfinite(number):
            yield f"a score or point is {number}"
    if not (math.isfinite(mask.seconds) and mask.seconds >= 0):
        yield f"seconds is {mask.seconds}, expected a number from 0"
    if not all(0 <= number <= MAX_INT32 for number in (mask.round, mask.shard, mask.clicks)):
        yield f"round {mask.round}, shard {mask.shard}, clicks {mask.clicks}: expected from 0"
    if not -(2**63) <= mask.image_id < 2**63:
        yield f"image_id {mask.image_id} is not int64"
    if mask.created_at.utcoffset() is None:
        yield f"created_at {mask.created_at} has no time zone"


def _inside(box_xyxy: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    x0, y0, x1, y1 = box_xyxy
    return 0 <= x0 <= x1 <= size[1] and 0 <= y0 <= y1 <= size[0]


def columns_of(masks: Sequence[Mask]) -> dict[str, list[Any]]:
    """The masks' values by column."""
    columns: dict[str, list[Any]] = {
        name: [getattr(mask, name) for mask in masks]
        for name in SCHEMA.names
        if name in Mask.__dataclass_fields__
    }
    columns |= {name: list(map(str, columns[name])) for name in ("stage", "source")}
    columns["height"] = [mask.rle.size[0] for mask in masks]
    columns["width"] = [mask.rle.size[1] for mask in masks]
    columns["counts"] = [mask.rle.counts for mask in masks]
    columns["point_x"] = [mask.point_xy and mask.point_xy[0] for mask in masks]
    columns["point_y"] = [mask.point_xy and mask.point_xy[1] for mask in masks]
    columns |= _xywh("bbox", [mask.box_xyxy for mask in masks])
    columns |= _xywh("crop", [mask.crop_xyxy for mask in masks])
    return columns


def _xywh(
    name: str, boxes_xyxy: Sequence[tuple[int, int, int, int] | None]
) -> dict[str, list[Any]]:
    return {
        f"{name}_x": [box and box[0] for box in boxes_xyxy],
        f"{name}_y": [box and box[1] for box in boxes_xyxy],
        f"{name}_w": [box and box[2] - box[0] for box in boxes_xyxy],
        f"{name}_h": [box and box[3] - box[1] for box in boxes_xyxy],
    }


def _xyxy(name: str, row: dict[str, Any]) -> tuple[int, int, int, int]:
    x, y = row[f"{name}_x"], row[f"{name}_y"]
    return x, y, x + row[f"{name}_w"], y + row[f"{name}_h"]


def _mask(row: dict[str, Any]) -> Mask:
    """The mask of a row's values by column; the inverse of `columns_of`."""
    return Mask(
        mask_id=row["mask_id"],
        image_id=row["image_id"],
        dataset=row["dataset"],
        stage=Stage(row["stage"]),
        round=row["round"],
        run_id=row["run_id"],
        shard=row["shard"],
        model=row["model"],
        source=Source(row["source"]),
        annotator=row["annotator"],
        rle=RLE(size=(row["height"], row["width"]), counts=row["counts"]),
        area=row["area"],
        box_xyxy=_xyxy("bbox", row),
        predicted_iou=row["predicted_iou"],
        stability_score=row["stability_score"],
        point_xy=None if row["point_x"] is None else (row["point_x"], row["point_y"]),
        crop_xyxy=None if row["crop_x"] is None else _xyxy("crop", row),
        clicks=row["clicks"],
        seconds=row["seconds"],
        supersedes=row["supersedes"],
        created_at=row["created_at"].replace(tzinfo=UTC),
    )
