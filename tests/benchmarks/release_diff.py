"""Time and memory of comparing two releases of a million masks.

    python -m tests.benchmarks.release_diff --json

The masks are ellipses on images of 1,500 by 2,250 pixels, 100 an image. Of the second release's
masks a share has new ids, half of them with another shape and half moved away. `--changed 1` is the
worst case: every mask was generated anew. The comparison runs in a process of its own, whose peak
memory is reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.core import rle as rle_codec
from storage.release_files import (
    IMAGES_FILE,
    IMAGES_SCHEMA,
    MASKS_SCHEMA,
    MaskFilesWriter,
    RowsWriter,
)

SIZE = (1500, 2250)
PER_IMAGE = 100
SHAPES = 400
"""Different ellipses, each in two variants."""

_COMPARE = """
import json, resource, sys, time
from pathlib import Path
from storage.release_diff import compare
from storage.release_files import MaskFiles
folders = [Path(one) for one in sys.argv[1:]]
files = [MaskFiles([p.name for p in folder.iterdir()], folder.joinpath) for folder in folders]
start = time.perf_counter()
found = compare(*files).as_json()
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak_mib": peak, "masks": found["masks"]}))
"""


def ellipses(rng: np.random.Generator) -> tuple[list[rle_codec.RLE], list[rle_codec.RLE]]:
    """Ellipses, and each a little larger."""
    plain: list[rle_codec.RLE] = []
    grown: list[rle_codec.RLE] = []
    for _ in range(SHAPES):
        radius = np.exp(rng.uniform(np.log(8), np.log(200), 2))
        centre = rng.uniform((0, 0), SIZE)
        for found, factor in ((plain, 1.0), (grown, 1.1)):
            y0, x0 = np.maximum(centre - factor * radius, 0).astype(int)
            y1, x1 = np.minimum(centre + factor * radius + 1, SIZE).astype(int)
            y, x = np.ogrid[y0:y1, x0:x1]
            away = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2
            found.append(rle_codec.from_window(away <= factor**2, x0, y0, SIZE))
    return plain, grown


def write_release(
    folder: Path, masks: int, changed: float, shapes: tuple[list[Any], list[Any]], seed: int
) -> None:
    """Write the files of a release, of whose masks the share `changed` is not the first one's."""
    folder.mkdir()
    rng, choice = np.random.default_rng(seed), np.random.default_rng(0)
    known = [[(one, *_measured(one)) for one in variant] for variant in shapes]
    made = datetime(2026, 1, 1, tzinfo=UTC)
    with (
        MaskFilesWriter(folder) as files,
        RowsWriter(folder / IMAGES_FILE, IMAGES_SCHEMA) as images,
    ):
        for image in range(1, masks // PER_IMAGE + 1):
            chosen = choice.integers(SHAPES, size=PER_IMAGE)
            fate = rng.random(PER_IMAGE)
            moved = (chosen + SHAPES // 2) % SHAPES
            rows = [
                _row(image, n, known, int(chosen[n]), int(moved[n]), float(fate[n]), changed, made)
                for n in range(PER_IMAGE)
            ]
            files.write(pa.Table.from_pylist(rows, MASKS_SCHEMA))
            images.write(pa.Table.from_pylist([_image(image)], IMAGES_SCHEMA))


def _measured(rle: rle_codec.RLE) -> tuple[int, tuple[int, int, int, int]]:
    x0, y0, x1, y1 = rle_codec.box_xyxy(rle)
    return rle_codec.area(rle), (x0, y0, x1 - x0, y1 - y0)


def _row(
    image: int,
    n: int,
    known: list[list[Any]],
    shape: int,
    moved: int,
    fate: float,
    changed: float,
    made: datetime,
) -> dict[str, Any]:
    is_new = fate < changed
    variant = 1 if is_new and fate < changed / 2 else 0
    rle, area, box = known[variant][moved if is_new and not variant else shape]
    return {
        "mask_id": f"{'b' if is_new else 'a'}{0:031x}/{image}/{n}",
        "image_id": image,
        "dataset": "d",
        "stage": "fully_automatic",
        "round": 1,
        "run_id": "r",
        "shard": 0,
        "model": "lite",
        "source": "automatic",
        "height": SIZE[0],
        "width": SIZE[1],
        "counts": rle.counts,
        "area": area,
        **{f"bbox_{side}": value for side, value in zip("xywh", box, strict=True)},
        "predicted_iou": 0.9,
        "clicks": 0,
        "seconds": 0.0,
        "created_at": made,
    }


def _image(image: int) -> dict[str, Any]:
    return {
        "image_id": image,
        "file_name": f"{image}.jpg",
        "sha256": f"{image:064x}",
        "key": f"images/{image}",
        "height": SIZE[0],
        "width": SIZE[1],
        "split": "train",
        "status": "generated",
        "masks": PER_IMAGE,
    }


def measure(masks: int, changed: float) -> dict[str, Any]:
    """Make two releases, compare them in a process; return time, peak memory and what differed."""
    shapes = ellipses(np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / name for name in "ab"]
        for number, (folder, share) in enumerate(zip(folders, (0.0, changed), strict=True)):
            write_release(folder, masks, share, shapes, number)
        size = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
        done = subprocess.run(
            [sys.executable, "-c", _COMPARE, *map(str, folders)],
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout)
    return {
        "masks": masks,
        "changed": changed,
        "diff_seconds": round(found["seconds"], 2),
        "diff_peak_mib": round(found["peak_mib"], 1),
        "bytes": size,
        "found": found["masks"],
    }


def main() -> None:
    """Measure, and print a line, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=1_000_000)
    parser.add_argument("--changed", type=float, default=0.1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.masks, options.changed)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['masks']:,} masks, {found['changed']:.0%} anew: {found['diff_seconds']} s, "
            f"{found['diff_peak_mib']} MiB; {found['found']}"
        )


if __name__ == "__main__":
    main()
