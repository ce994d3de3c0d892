"""Masks as Arrow rows and Parquet files: the columns of the mask table.

Boxes are half-open pixel XYXY in a Mask and x, y, w, h in a row; both, like points (x, y) and
sizes (H, W), in the frame of the original image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any

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
        ValueError: a mask has a size, area or box that cannot be, a score that is no number, or a
            time without a zone; the message names it.
    """
    rows = []
    for mask in masks:
        for fault in _faults(mask):
            raise ValueError(f"mask {mask.mask_id!r}: {fault}")
        rows.append(_row(mask))
    columns = zip(*rows, strict=True) if rows else ([] for _ in SCHEMA)
    arrays = [pa.array(column, f.type) for column, f in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def from_batch(batch: pa.RecordBatch | pa.Table) -> list[Mask]:
    """The rows as masks, in their order; `created_at` in UTC.

    Raises:
        ValueError: a column of SCHEMA is missing or has another type.
    """
    if missing := set(SCHEMA.names) - set(batch.schema.names):
        raise ValueError(f"not a table of masks: it lacks {sorted(missing)}")
    exact = batch.select(SCHEMA.names).cast(SCHEMA).columns
    return [_mask(*row) for row in zip(*(column.to_pylist() for column in exact), strict=True)]


def write_parquet(masks: Iterable[Mask]) -> bytes:
    """The masks as one Parquet file with the columns of SCHEMA; errors as in `to_batch`."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_batches([to_batch(masks)])
    pq.write_table(
        table, sink, compression="zstd", compression_level=3, row_group_size=ROW_GROUP_ROWS
    )
    return bytes(sink.getvalue())


def read_parquet(data: bytes) -> list[Mask]:
    """What `write_parquet` wrote.

    Raises:
        ValueError: `data` is no Parquet file or has other columns.
    """
    try:
        return from_batch(pq.read_table(pa.BufferReader(data)))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a Parquet file of masks: {error}") from error


def _faults(mask: Mask) -> Iterator[str]:
    """What is wrong with a mask, worst first."""
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


def _row(mask: Mask) -> tuple[object, ...]:
    """The values of a mask in SCHEMA's order."""
    x0, y0, x1, y1 = mask.box_xyxy
    crop: tuple[int | None, ...] = (None,) * 4
    if mask.crop_xyxy is not None:
        left, top, right, bottom = mask.crop_xyxy
        crop = (left, top, right - left, bottom - top)
    return (
        mask.mask_id,
        mask.image_id,
        mask.dataset,
        str(mask.stage),
        mask.round,
        mask.run_id,
        mask.shard,
        mask.model,
        str(mask.source),
        mask.annotator,
        *mask.rle.size,
        mask.rle.counts,
        mask.area,
        *(x0, y0, x1 - x0, y1 - y0),
        mask.predicted_iou,
        mask.stability_score,
        *(mask.point_xy or (None, None)),
        *crop,
        mask.clicks,
        mask.seconds,
        mask.supersedes,
        mask.created_at,
    )


def _mask(*row: Any) -> Mask:
    """The mask of a row's values in SCHEMA's order; the inverse of `_row`."""
    mask_id, image_id, dataset, stage, number, run_id, shard, model, source, annotator = row[:10]
    height, width, counts, area, x, y, w, h, predicted_iou, stability_score = row[10:20]
    point_x, point_y, left, top, wide, high, clicks, seconds, supersedes, created_at = row[20:]
    return Mask(
        mask_id=mask_id,
        image_id=image_id,
        dataset=dataset,
        stage=Stage(stage),
        round=number,
        run_id=run_id,
        shard=shard,
        model=model,
        source=Source(source),
        annotator=annotator,
        rle=RLE(size=(height, width), counts=counts),
        area=area,
        box_xyxy=(x, y, x + w, y + h),
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        point_xy=None if point_x is None else (point_x, point_y),
        crop_xyxy=None if left is None else (left, top, left + wide, top + high),
        clicks=clicks,
        seconds=seconds,
        supersedes=supersedes,
        created_at=created_at.replace(tzinfo=UTC),
    )
