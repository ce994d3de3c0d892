"""Measurements of reading a release: a filtered scan, and loading images with masks."""

from __future__ import annotations

import contextlib
import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader

from engine.data import MaskDataset, collate
from engine.sam.torchvision_ops import ensure_torchvision
from storage.formats.coco_writer import CocoWriter
from storage.formats.hf_parquet import ImageRows
from storage.formats.pages import pages
from storage.mask_files import write_file
from storage.mask_rows import SCHEMA
from storage.masks import MaskTable
from storage.stores import open_store
from tests.benchmarks.made_release import PER_IMAGE, files_of, json_files, write_release
from tests.benchmarks.scale import SIZE

ROUNDS = 3
"""Of the loader, of which the median counts."""


def measure_scan(folder: Path, rows: int, peer_masks: int) -> dict[str, float]:
    """A filtered scan of the mask table, and of JSON."""
    table = MaskTable(open_store(str(folder / "table")))
    _fill(table, folder / "table", rows)
    began, found = time.perf_counter(), 0
    columns = ["mask_id", "image_id", "area", "predicted_iou"]
    for batch in table.scan(columns=columns, dataset="d3", min_predicted_iou=0.95):
        large = pc.and_(pc.greater(batch["area"], 10_000), pc.greater(batch["predicted_iou"], 0.95))
        found += pc.sum(large).as_py() or 0
    scan_seconds = time.perf_counter() - began
    release = folder / "scan"
    write_release(release, peer_masks)
    texts = list(json_files(release))
    began, other = time.perf_counter(), 0
    for text in texts:
        for one in json.loads(text)["annotations"]:
            other += one["predicted_iou"] > 0.95 and one["area"] > 10_000
    json_seconds = (time.perf_counter() - began) * rows / peer_masks
    return {
        "scan_rows": rows,
        "scan_found": found,
        "scan_seconds": scan_seconds,
        "json_seconds": json_seconds,
        "scan_ratio": json_seconds / scan_seconds,
    }


def _fill(table: MaskTable, folder: Path, rows: int) -> None:
    """Ten data sets of a table, a file for each 100,000 masks or fewer, as compaction leaves."""
    store, rng = open_store(str(folder)), np.random.default_rng(0)
    delta = table._create()
    step = max(1, min(100_000, rows // 10))
    for number, begin in enumerate(range(0, rows, step)):
        count = min(step, rows - begin)
        ids = np.arange(begin, begin + count)
        columns = {field.name: pa.nulls(count, field.type) for field in SCHEMA}
        columns |= {
            "mask_id": pa.array([f"{n:016x}" for n in ids.tolist()]),
            "image_id": pa.array(ids // PER_IMAGE),
            "dataset": pa.array([f"d{number % 10}"] * count),
            "predicted_iou": pa.array(rng.uniform(0.8, 1, count).astype(np.float32)),
            "area": pa.array(rng.integers(10, 40_000, count)),
            "created_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * count),
            "counts": pa.array([b"0"] * count),
        }
        for name in ("stage", "source", "run_id"):
            columns[name] = pa.array(["automatic"] * count)
        for field in SCHEMA:
            if not field.nullable and columns[field.name].null_count:
                columns[field.name] = pa.array(np.ones(count), field.type)
        made = pa.Table.from_arrays([columns[f.name].cast(f.type) for f in SCHEMA], schema=SCHEMA)
        action = write_file(store, table._prefix, made, data_change=True)
        delta.create_write_transaction([action], "append", delta.schema())


def measure_loader(folder: Path, images: int, masks: int, workers: int) -> dict[str, float]:
    """Loading by MaskDataset and by CocoDetection."""
    place = folder / "loader"
    _write_photos(place, images, masks)
    theirs = _coco_detection(place)
    ours = MaskDataset(str(place))
    a, b = ours[0], theirs[0]
    assert (a[1]["masks"].numpy() == b[1].numpy()).all()
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(ROUNDS):
        for name, dataset in (("ours", ours), ("theirs", theirs)):
            loader = DataLoader(
                dataset, batch_size=4, shuffle=True, num_workers=workers, collate_fn=collate
            )
            began = time.perf_counter()
            for _batch in loader:
                pass
            seconds[name].append(time.perf_counter() - began)
    mine, other = (float(np.median(seconds[name])) for name in ("ours", "theirs"))
    return {
        "loader_images_per_second": images / mine,
        "torchvision_images_per_second": images / other,
        "loader_ratio": other / mine,
    }


def _write_photos(place: Path, count: int, masks: int) -> None:
    """Pictures with masks, as Parquet and as a folder with a COCO file."""
    (place / "images").mkdir(parents=True)
    (place / "data").mkdir()
    release = place / "release"
    write_release(release, count * PER_IMAGE)
    rng = np.random.default_rng(0)
    files = files_of(release)

    def load(key: str) -> tuple[bytes, str]:
        return (place / f"{key}.jpg").read_bytes(), ".jpg"

    for number in range(1, count + 1):
        noise = rng.integers(0, 255, (48, 64, 3), np.uint8)
        picture = cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(place / f"images/{number}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    path = place / "data/train-00000.parquet"
    with (
        CocoWriter(place / "instances.json") as coco,
        ImageRows(path, [None], ["object"], load) as rows,
    ):
        for page in pages(files.images(), files.batches()):
            numbers = np.arange(page.masks.num_rows) - page.starts[page.image_of_masks()]
            part = page.with_masks(numbers < masks)
            coco.add_page(part)
            rows.add(part)


def _coco_detection(place: Path) -> Any:
    ensure_torchvision()
    from torchvision.datasets import CocoDetection
    from torchvision.transforms.functional import pil_to_tensor

    class Detection(CocoDetection):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            image, target = super().__getitem__(index)
            masks = np.stack([self.coco.annToMask(one) for one in target])
            return pil_to_tensor(image), torch.from_numpy(masks).bool()

    content = json.loads((place / "instances.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    (place / "detection.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        return Detection(str(place / "images"), str(place / "detection.json"))
