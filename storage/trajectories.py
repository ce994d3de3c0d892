"""Prompt trajectories: the steps by which annotators made masks, as Parquet beside the masks.

A task's trajectories are written with its submitted masks; when its round is committed, those of a
shard become one object, `trajectories/RUN/SHARD.parquet`. All of these read as one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        pa.field("mask_id", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("task_id", pa.int64(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("at", pa.float32(), nullable=False),
        pa.field("x", pa.float32()),
        pa.field("y", pa.float32()),
        pa.field("label", pa.int8()),
        pa.field("box_xyxy", pa.list_(pa.float32(), 4)),
        pa.field("radius", pa.float32()),
        pa.field("path_xy", pa.list_(pa.list_(pa.float32(), 2))),
        pa.field("candidate", pa.int8()),
        pa.field("predicted_iou", pa.float32()),
    ]
)
"""One row per step. `at`: seconds since the mask was begun; points, boxes, radius and path in
pixels of the image; `label` 1 object, 0 background."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryStep:
    """One step in making a mask; the fields are SCHEMA's."""

    mask_id: str
    image_id: int
    run_id: str
    task_id: int
    annotator: str
    step: int
    kind: str
    at: float
    x: float | None = None
    y: float | None = None
    label: int | None = None
    box_xyxy: tuple[float, float, float, float] | None = None
    radius: float | None = None
    path_xy: list[tuple[float, float]] | None = None
    candidate: int | None = None
    predicted_iou: float | None = None


def write_trajectories(steps: Sequence[TrajectoryStep]) -> bytes:
    """The steps as one Parquet file."""
    columns = [
        pa.array([getattr(step, field.name) for step in steps], field.type) for field in SCHEMA
    ]
    return _write(pa.Table.from_arrays(columns, schema=SCHEMA))


def join_trajectories(files: Sequence[bytes]) -> bytes:
    """Join several such files into one, in this order.

    Raises:
        ValueError: one of them is not such a file.
    """
    return _write(pa.concat_tables([SCHEMA.empty_table(), *map(read_trajectories, files)]))


def read_trajectories(data: bytes) -> pa.Table:
    """The rows of such a file.

    Raises:
        ValueError: it is not one.
    """
    try:
        return pq.read_table(pa.BufferReader(data), schema=SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a Parquet file of trajectories: {error}") from error


def _write(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=3)
    return bytes(sink.getvalue())
