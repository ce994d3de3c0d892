"""The Parquet files of an export, as rows that are decoded on demand.

N = masks of an image, H = height, W = width.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from pyarrow import fs

from engine.core.run_lengths import masks_in_boxes

Target = dict[str, Any]
Sample = tuple[torch.Tensor, Target]
FOLDER = "data"
GROUPS_KEPT = 4
"""Row groups that a process keeps in memory."""


@dataclass(frozen=True, slots=True)
class Group:
    """A row group: the file's number, its own number in it, and its rows."""

    file: int
    number: int
    rows: int


class Rows:
    """The rows of one split. Files are opened when they are first read, in each process anew.

    Args:
        place: the export's folder, or `s3://bucket/prefix`.
        split: `train`, `val` or `test`.
        filesystem: for S3 with an endpoint or keys of its own; None: as the environment says.

    Raises:
        FileNotFoundError: no files of this split.
    """

    def __init__(self, place: str, split: str, filesystem: fs.FileSystem | None = None) -> None:
        if filesystem is None and "://" in place:
            filesystem, place = fs.FileSystem.from_uri(place)
        self._fs = filesystem or fs.LocalFileSystem(use_mmap=True)
        root = place.removeprefix("s3://").rstrip("/")
        self._paths = _files(self._fs, root, split)
        if not self._paths:
            raise FileNotFoundError(
                f"no {FOLDER}/{split}-*.parquet in {place}: expected an export of `dataengine "
                "export NAME --format parquet`"
            )
        self.groups: list[Group] = []
        self.categories: list[str] = []
        for number, path in enumerate(self._paths):
            with self._fs.open_input_file(path) as file:
                metadata = pq.read_metadata(file)
            if not number:
                self.categories = _categories(metadata)
            self.groups += [
                Group(number, group, metadata.row_group(group).num_rows)
                for group in range(metadata.num_row_groups)
            ]
        self._starts = np.cumsum([0, *(group.rows for group in self.groups)])
        self._open: dict[int, pq.ParquetFile] = {}
        self._kept: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: a worker process opens its own."""
        return self.__dict__ | {"_open": {}, "_kept": OrderedDict()}

    def row(self, index: int) -> dict[str, Any]:
        """A row's values; IndexError beyond the last."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = int(np.searchsorted(self._starts, index, "right")) - 1
        return self.group(group)[index - int(self._starts[group])]

    def group(self, number: int) -> list[dict[str, Any]]:
        """The rows of a row group."""
        if number not in self._kept:
            group = self.groups[number]
            if group.file not in self._open:
                path = self._paths[group.file]
                self._open[group.file] = pq.ParquetFile(self._fs.open_input_file(path))
            table = self._open[group.file].read_row_group(group.number, use_threads=False)
            self._kept[number] = table.to_pylist()
            if len(self._kept) > GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]


def decoded(row: dict[str, Any], *, keep_unlabelled: bool) -> Sample:
    """A row as tensors, in the form of torchvision's detection models.

    Returns:
        The image, uint8 (3, H, W) in RGB; and `masks` bool (N, H, W), `boxes` float32 (N, 4) XYXY
        in pixels, `labels` int64 (N,) from 1 (0 for a mask without category), `area` int64 (N,),
        `iscrowd` int64 (N,) of zeros, `image_id` int.

    Raises:
        ValueError: the image's bytes cannot be decoded, or have another size than the masks; or a
            mask is damaged.
    """
    image = cv2.imdecode(np.frombuffer(row["image"]["bytes"], np.uint8), cv2.IMREAD_COLOR)
    size = (row["height"], row["width"])
    if image is None or image.shape[:2] != size:
        raise ValueError(f"image {row['image_id']} ({row['file_name']}) is damaged")
    objects = row["objects"]
    labels = np.array(objects["category"], np.int64) + 1
    chosen = np.arange(len(labels)) if keep_unlabelled else np.flatnonzero(labels)
    boxes = np.array(objects["bbox"], np.int64).reshape(-1, 4)[chosen]
    boxes[:, 2:] += boxes[:, :2]
    counts = [objects["counts"][index].encode() for index in chosen]
    target = {
        "masks": torch.from_numpy(masks_in_boxes(counts, boxes, size)),
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.from_numpy(labels[chosen]),
        "area": torch.from_numpy(np.array(objects["area"], np.int64)[chosen]),
        "iscrowd": torch.zeros(len(chosen), dtype=torch.int64),
        "image_id": row["image_id"],
    }
    planes = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes)), target


def _files(filesystem: fs.FileSystem, root: str, split: str) -> list[str]:
    selector = fs.FileSelector(f"{root}/{FOLDER}", allow_not_found=True)
    names = [one.path for one in filesystem.get_file_info(selector) if one.is_file]
    prefix = f"{split}-"
    return sorted(
        path
        for path in names
        if path.rpartition("/")[2].startswith(prefix) and path.endswith(".parquet")
    )


def _categories(metadata: pq.FileMetaData) -> list[str]:
    """The names of the categories, as `datasets` describes them in the file."""
    described = json.loads((metadata.metadata or {}).get(b"huggingface", b"{}"))
    objects = described.get("info", {}).get("features", {}).get("objects", {})
    names = objects.get("category", {}).get("feature", {}).get("names", [])
    return [str(name) for name in names]
