"""Exports, imports, queries and loading of a release, against other programs.

    python -m tests.benchmarks.releases --json                 # a million masks; about 20 minutes
    python -m tests.benchmarks.releases --masks 20000 --rows 100000 --peer-masks 5000 --json
    python -m tests.benchmarks.releases --only coco,sa1b --json
    python -m tests.benchmarks.releases --datumaro /venv/bin/python --json

Masks are random outlines of 640 x 480 images, 100 an image, of the length that those of photographs
have; 20,000 of them differ, more than a row group holds. Each measurement runs in a process of its
own, whose peak memory includes the interpreter and its libraries.

- **coco**, **sa1b**: an export of the release's Parquet files; `sa1b` into tars, `sa1b_files` into
  a file for each image.
- **peer**: the same export by a script of a loop over rows, pycocotools and `json.dump`; or by
  datumaro, given a Python that has it, else its figures are null. `same_output`: images, masks,
  boxes and areas are equal.
- **bytes**: the release's Parquet against SA-1B's JSON, each file compressed by gzip.
- **scan**: predicted IoU above .95, area above 10,000, one of ten data sets, in the mask table;
  against parsing SA-1B's JSON of `--peer-masks` masks, of which the time for all rows is
  calculated.
- **loader**: images with masks by MaskDataset and by torchvision's CocoDetection with `annToMask`,
  with the same workers.
- **diff**: `tests.benchmarks.release_diff`.
- **import**: an ingest of the COCO export as masks.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from storage.formats.coco_writer import CocoWriter
from storage.formats.pages import pages
from storage.release_files import IMAGES_FILE
from tests.benchmarks.made_release import (
    PER_IMAGE,
    SHAPES,
    files_of,
    json_files,
    write_release,
)
from tests.benchmarks.scale import SIZE

TASKS = ("coco", "sa1b", "sa1b_files", "peer", "bytes", "scan", "loader", "diff", "import")
BEGUN = time.perf_counter()


def say(text: str) -> None:
    """Print a line to look at."""
    print(f"{time.perf_counter() - BEGUN:6.0f} s  {text}", file=sys.stderr, flush=True)


# Measurements, each in a process of its own


def export(release: Path, out: Path, style: str) -> dict[str, float]:
    """Export by the function behind `dataengine export`."""
    from flows.release.export import ExportOptions, export_release
    from flows.workspace.workspace import open_workspace

    workspace = open_workspace(str(out))
    dataset = workspace.catalog.datasets.get_or_create("big")
    begun = workspace.catalog.releases.start(
        "r", dataset_id=dataset.id, table_version=0, key="releases/r"
    )
    options = ExportOptions(tars=style == "sa1b")
    began, worked = time.perf_counter(), time.process_time()
    counts = export_release(
        workspace,
        begun,
        out / "export",
        style.removesuffix("_files"),
        options,
        source=files_of(release),
    )
    seconds = time.perf_counter() - began
    return {
        f"{style}_masks_per_second": counts["masks"] / seconds,
        f"{style}_masks_per_processor_second": counts["masks"] / (time.process_time() - worked),
        f"{style}_peak_mib": peak_mib(),
    }


def script(release: Path, out: Path) -> dict[str, float]:
    """The export as scripts with pycocotools do it: an object for each mask, and all in memory."""
    import pyarrow.parquet as pq
    from pycocotools import mask as coco_mask

    began = time.perf_counter()
    images = [
        {"id": row["image_id"], **{name: row[name] for name in ("file_name", "height", "width")}}
        for row in pq.read_table(release / IMAGES_FILE).to_pylist()
    ]
    annotations: list[dict[str, Any]] = []
    for path in sorted(release.glob("masks-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            rle = {"size": [row["height"], row["width"]], "counts": row["counts"]}
            annotation = {
                "id": len(annotations) + 1,
                "image_id": row["image_id"],
                "category_id": 1,
                "area": int(coco_mask.area(rle)),
                "bbox": [int(value) for value in coco_mask.toBbox(rle)],
                "iscrowd": 0,
                **{name: row[name] for name in ("predicted_iou", "stability_score", "stage")},
                **{name: row[name] for name in ("source", "mask_id")},
            }
            annotation["segmentation"] = rle | {"counts": row["counts"].decode()}
            annotations.append(annotation)
    categories = [{"id": 1, "name": "object", "supercategory": "object"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    with out.open("w") as file:
        json.dump(content, file)
    seconds = time.perf_counter() - began
    return {"peer_masks_per_second": len(annotations) / seconds, "peer_peak_mib": peak_mib()}


DATUMARO = """
import json, sys, time
from pathlib import Path
import datumaro as dm
import pyarrow.parquet as pq
release, out = Path(sys.argv[1]), Path(sys.argv[2])
began = time.perf_counter()
items, count = {}, 0
for path in sorted(release.glob("masks-*.parquet")):
    for row in pq.read_table(path).to_pylist():
        rle = {"size": [row["height"], row["width"]], "counts": row["counts"]}
        count += 1
        mask = dm.RleMask(rle, label=0, id=count, group=count)
        items.setdefault(row["image_id"], []).append(mask)
sizes = {r["image_id"]: r for r in pq.read_table(release / "images.parquet").to_pylist()}
dataset = dm.Dataset.from_iterable([
    dm.DatasetItem(id=sizes[i]["file_name"][:-4], subset="default", annotations=masks,
        attributes={"id": i}, media=dm.Image.from_file(path=sizes[i]["file_name"],
        size=(sizes[i]["height"], sizes[i]["width"])))
    for i, masks in items.items()], categories=["object"], media_type=dm.Image)
dataset.export(str(out), "coco_instances", save_media=False, segmentation_mode="mask")
seconds = time.perf_counter() - began
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(lines["VmHWM"].split()[0]) / 1024
print(json.dumps({"datumaro_masks_per_second": count / seconds, "datumaro_peak_mib": peak}))
"""


def import_coco(folder: Path, coco: Path, workspace_folder: Path) -> dict[str, float]:
    """Ingest images and a COCO file as masks, as `dataengine ingest` does."""
    from flows.data.annotations import AnnotationsAs
    from flows.data.ingest import ingest_folder
    from flows.workspace.settings import FILE_NAME
    from flows.workspace.workspace import open_workspace

    workspace_folder.mkdir()
    (workspace_folder / FILE_NAME).write_text("")
    workspace = open_workspace(str(workspace_folder))
    workspace.prepare()
    began = time.perf_counter()
    ingest_folder(workspace, "plain", folder)
    images_seconds = time.perf_counter() - began
    began = time.perf_counter()
    report = ingest_folder(workspace, "d", folder, coco, annotations_as=AnnotationsAs.MASKS)
    seconds = time.perf_counter() - began
    assert report.masks, report.problems[:3]
    return {
        "import_masks_per_second": report.masks / max(seconds - images_seconds, 1e-9),
        "import_seconds": seconds,
        "import_images_seconds": images_seconds,
        "import_peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """The most memory that this process has held. Linux's `ru_maxrss` counts what the process had
    before its program was started, as a copy of its parent, too."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "export": export,
    "script": script,
    "import": import_coco,
}


def measure_export(release: Path, out: Path, style: str) -> dict[str, float]:
    """Export in a process of its own, from a workspace that is there already."""
    from flows.workspace.settings import FILE_NAME
    from flows.workspace.workspace import open_workspace

    out.mkdir()
    (out / FILE_NAME).write_text("")
    open_workspace(str(out)).prepare()
    return apart("export", release, out, style)


def apart(name: str, *arguments: Path | str) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.releases", "--measure", name]
    done = subprocess.run(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# Comparisons


def measure_peer(folder: Path, masks: int, datumaro: str | None) -> dict[str, Any]:
    """Our export and others' of the same masks."""
    release = folder / "peer"
    write_release(release, masks)
    ours = measure_export(release, folder / "peer-ours", "coco")
    theirs = apart("script", release, folder / "theirs.json")
    found: dict[str, Any] = {"peer": "pycocotools", **theirs}
    found["same_output"] = float(
        _content(folder / "peer-ours/export/instances.json") == _content(folder / "theirs.json")
    )
    if datumaro is not None:
        command = [datumaro, "-c", DATUMARO, str(release), str(folder / "datumaro")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found |= json.loads(done.stdout.splitlines()[-1]) | {"peer": "datumaro"}
        (path,) = (folder / "datumaro").rglob("instances_*.json")
        found["same_output_datumaro"] = float(
            _shapes(path) == _shapes(folder / "peer-ours/export/instances.json")
        )
    for name, prefix in (("datumaro", "datumaro"), ("pycocotools", "peer")):
        speed, peak = (found.get(f"{prefix}_{what}") for what in ("masks_per_second", "peak_mib"))
        found[f"speed_against_{name}"] = speed and ours["coco_masks_per_second"] / speed
        found[f"memory_against_{name}"] = peak and ours["coco_peak_mib"] / peak
    return found


def _content(path: Path) -> tuple[list[Any], list[Any]]:
    """Images and annotations of a COCO file, as both exports have them."""
    content = json.loads(path.read_bytes())
    names = ("id", "file_name", "height", "width")
    images = [[one[name] for name in names] for one in content["images"]]
    same = ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd", "mask_id")
    return images, [[one[name] for name in same] for one in content["annotations"]]


def _shapes(path: Path) -> set[tuple[str, str]]:
    """Image name and run lengths of each mask."""
    content = json.loads(path.read_bytes())
    names = {one["id"]: Path(one["file_name"]).stem for one in content["images"]}
    found = set()
    for one in content["annotations"]:
        counts = one["segmentation"]["counts"]
        if isinstance(counts, list):
            from storage.formats.segmentation import rle_from_json

            counts = rle_from_json(one["segmentation"]).counts.decode()
        found.add((names[one["image_id"]], counts))
    return found


def measure_bytes(folder: Path, masks: int) -> dict[str, float]:
    """Bytes of a mask in Parquet, and in SA-1B's JSON by gzip."""
    release = folder / "bytes"
    write_release(release, masks)
    table = sum(path.stat().st_size for path in release.glob("masks-*.parquet")) / masks
    zipped = plain = 0
    for text in json_files(release):
        plain += len(text)
        zipped += len(gzip.compress(text, 6))
    return {
        "bytes_per_mask": table,
        "json_gz_bytes_per_mask": zipped / masks,
        "json_bytes_per_mask": plain / masks,
        "bytes_ratio": table / (zipped / masks),
        "bytes_ratio_plain_json": table / (plain / masks),
    }


def measure_import(folder: Path, release: Path, masks: int) -> dict[str, float]:
    """An ingest of the COCO export with its images."""
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, -(-masks // PER_IMAGE) + 1):
        picture = np.full((*SIZE, 3), number % 251, np.uint8)
        picture[:8, :8] = rng.integers(0, 255, (8, 8, 3))
        cv2.imwrite(str(pictures / f"{number:07}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    files, coco = files_of(release), folder / "import.json"
    images = files.images()  # whose sums are not those of the pictures
    place = images.schema.get_field_index("sha256")
    images = images.set_column(place, "sha256", pa.nulls(len(images), pa.string()))
    with CocoWriter(coco) as writer:
        for page in pages(images, files.batches()):
            writer.add_page(page)
    return apart("import", pictures, coco, folder / "import")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All chosen measurements."""
    from tests.benchmarks import release_reading as reading  # torch, which exports do not need

    chosen = arguments.only.split(",")
    found: dict[str, Any] = {"masks": arguments.masks}
    release = folder / "release"
    if {"coco", "sa1b", "sa1b_files", "import"} & set(chosen):
        say(f"writing a release of {arguments.masks:,} masks")
        write_release(release, arguments.masks)
    for style in ("coco", "sa1b", "sa1b_files"):
        if style in chosen:
            say(style)
            found |= measure_export(release, folder / style, style)
    peaks = [found[f"{s}_peak_mib"] for s in ("coco", "sa1b") if f"{s}_peak_mib" in found]
    found |= {"export_peak_mib": max(peaks)} if peaks else {}
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "peer": lambda: measure_peer(folder, arguments.peer_masks, arguments.datumaro),
        "bytes": lambda: measure_bytes(folder, min(SHAPES, arguments.peer_masks)),
        "scan": lambda: reading.measure_scan(
            folder, arguments.rows, min(SHAPES, arguments.peer_masks)
        ),
        "loader": lambda: reading.measure_loader(
            folder, arguments.loader_images, arguments.loader_masks, arguments.workers
        ),
        "diff": lambda: measure_diff(arguments.masks),
        "import": lambda: measure_import(folder, release, arguments.masks),
    }
    for name, step in steps.items():
        if name in chosen:
            say(name)
            found |= step()
    return found


def measure_diff(masks: int) -> dict[str, float]:
    """The difference of two releases."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.release_diff",
        "--masks",
        str(masks),
        "--json",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"diff_seconds": told["diff_seconds"], "diff_peak_mib": told["diff_peak_mib"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--masks", type=int, default=1_000_000)
    parser.add_argument("--peer-masks", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the scan")
    parser.add_argument("--loader-images", type=int, default=200)
    parser.add_argument("--loader-masks", type=int, default=30, help="of an image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default=",".join(TASKS), help="names of measurements")
    parser.add_argument("--datumaro", help="a Python that has datumaro and pyarrow")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        name, *given = arguments.measure
        paths = [Path(one) if "/" in one else one for one in given]
        print(json.dumps(MEASURES[name](*paths)))
        return
    with tempfile.TemporaryDirectory(prefix="releases-") as name:
        found = measure(arguments, Path(name))
    rounded = {key: round(v, 3) if isinstance(v, float) else v for key, v in found.items()}
    if arguments.json:
        print(json.dumps(rounded))
        return
    for key, value in rounded.items():
        print(f"{key:40} {value:>14}")


if __name__ == "__main__":
    main()
