"""Catalog and mask table at the size of a large dataset, and at a tenth of it.

    python -m tests.benchmarks.scale --json                # 1 M images, 10 M masks
    python -m tests.benchmarks.scale --images 10000 --masks 100000 --json

- **catalog**, on a real PostgreSQL: images and as many open tasks. Leasing tasks, as the page does;
  planning a run over all images, as `dataengine generate` does, in a process of its own with its
  peak memory; leasing shards when nine tenths of them are committed.
- **table**, in a local folder: commits of a thousand images with ten masks each. How fast masks go
  in, a scan with a filter that no file's statistics can answer, all masks of one image by its id,
  and bytes a mask. The masks are random outlines, each one different, of the length that masks of
  640 x 480 photographs have.

Every figure comes with one of the same name ending in `_tenth`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco
from rich.console import Console
from sqlalchemy import text

from engine.core.records import Mask, Source, Stage
from engine.core.rle import RLE
from flows.workspace.settings import FILE_NAME, load_settings
from storage.annotation_queue import AnnotationQueue
from storage.catalog import Catalog, RunKind, TaskKind
from storage.compaction import table_size
from storage.masks import MaskTable
from storage.stores import open_store
from tests.postgres import Postgres, running_postgres

SIZE = (480, 640)
LEASES = 500
LOOKUPS = 40
IMAGES_A_COMMIT = 1000
"""As in a shard of SA-1B's size."""
MASKS_AN_IMAGE = 10
CREATED = datetime(2026, 1, 1, tzinfo=UTC)

errors = Console(stderr=True)


def percentile(values: list[float], share: float) -> float:
    """In milliseconds, of seconds."""
    return 1000 * sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# Catalog


def measure_catalog(server: Postgres, folder: Path, images: int) -> dict[str, float]:
    """Leases and planning over so many images and tasks."""
    url = server.url(server.create_database())
    root = folder / f"ws-{images}"
    root.mkdir()
    (root / FILE_NAME).write_text(f'database_url = "{url}"\n')
    with Catalog(url) as catalog:
        catalog.migrate()
        fill_seconds = timed(lambda: _fill(catalog, images))
        leases = _lease_tasks(catalog, dataset_ids=None)
        of_dataset = _lease_tasks(catalog, dataset_ids=[1])
        planned = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.scale", "--plan", str(root)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        shard_leases = _lease_shards(catalog)
        with catalog.reading() as session:
            size = session.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    return {
        "fill_seconds": fill_seconds,
        "lease_p50_ms": percentile(leases + of_dataset, 0.5),
        "lease_p95_ms": max(percentile(leases, 0.95), percentile(of_dataset, 0.95)),
        **json.loads(planned.stdout.splitlines()[-1]),
        "shard_lease_p95_ms": percentile(shard_leases, 0.95),
        "catalog_bytes_per_image": size / images,
    }


def _fill(catalog: Catalog, images: int) -> None:
    """Rows as ingest and a round make them, made by the database itself."""
    catalog.datasets.get_or_create("big")
    catalog.annotators.get_or_create("ada")
    catalog.runs.start("queue", RunKind.ASSISTED_MANUAL, dataset_id=1)
    with catalog.session() as session:
        session.execute(
            text(
                "INSERT INTO images (dataset_id, sha256, key, file_name, height, width, split, "
                "created_at) SELECT 1, md5(i::text) || md5((-i)::text), 'images/' || md5(i::text), "
                "'photo-' || i || '.jpg', 480, 640, 'train', now() "
                "FROM generate_series(1, :images) AS i"
            ),
            {"images": images},
        )
        session.execute(
            text(
                "INSERT INTO tasks (dataset_id, image_id, kind, run_id, state, priority, skips, "
                "attempts, payload, created_at) SELECT 1, id, 'annotate', 'queue', 'open', "
                "(id % 3)::int, 0, 0, '{}', now() FROM images"
            )
        )
        session.commit()
    with catalog.session() as session:
        session.execute(text("ANALYZE"))
        session.commit()


def _lease_tasks(catalog: Catalog, dataset_ids: list[int] | None) -> list[float]:
    queue = AnnotationQueue(catalog)

    def lease() -> None:
        task = queue.lease(1, kinds=[TaskKind.ANNOTATE], dataset_ids=dataset_ids)
        assert task is not None

    return [timed(lease) for _ in range(LEASES)]


def _lease_shards(catalog: Catalog) -> list[float]:
    shards = catalog.shards.totals("planned").shards
    with catalog.session() as session:
        session.execute(
            text("UPDATE shards SET state = 'committed' WHERE shard < :done"),
            {"done": shards * 9 // 10},
        )
        session.commit()
    leases = min(LEASES, shards - shards * 9 // 10)
    return [timed(lambda: catalog.shards.lease("planned", "me", 600)) for _ in range(leases)]


def plan(root: Path) -> dict[str, float]:
    """What `dataengine generate` does before the first shard, and this process's peak memory."""
    from flows.stages.fully_automatic import planned_images, start_generate
    from flows.stages.shards import plan_shards
    from flows.workspace.workspace import Workspace

    workspace = Workspace(load_settings(root))
    workspace.prepare()
    before = _peak_mib()
    began = time.perf_counter()
    run = start_generate(workspace, "planned", "big", limit=None, only_new=False)
    totals = plan_shards(workspace, run.id, planned_images(workspace, run))
    return {
        "plan_seconds": time.perf_counter() - began,
        "plan_peak_mib": _peak_mib(),
        "plan_extra_mib": _peak_mib() - before,
        "plan_images": totals.images,
        "plan_shards": totals.shards,
    }


def _peak_mib() -> float:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / (2**20 if sys.platform == "darwin" else 2**10)


# Mask table


def measure_table(folder: Path, masks: int) -> dict[str, float]:
    """Commits, scans and lookups of a table of so many masks."""
    store = open_store(str(folder / f"store-{masks}"))
    table = MaskTable(store)
    rows = IMAGES_A_COMMIT * MASKS_AN_IMAGE
    commits = []
    for shard in range(max(1, masks // rows)):
        batch = list(random_masks(shard, rows))
        commits.append(timed(lambda: table.commit(batch, run_id="run", shard=shard)))  # noqa: B023
    made = len(commits) * rows
    images, rng = len(commits) * IMAGES_A_COMMIT, random.Random(1)
    lookups = []
    for _ in range(LOOKUPS):
        image = rng.randrange(images)
        lookups.append(timed(lambda: _masks_of(table, image)))  # noqa: B023
    found = 0

    def scan() -> None:
        nonlocal found
        columns = ["mask_id", "image_id", "area", "predicted_iou"]
        for batch in table.scan(columns=columns, min_predicted_iou=0.95, source=Source.AUTOMATIC):
            found += batch.num_rows

    scan_seconds = timed(scan)
    return {
        "masks": made,
        "append_masks_per_second": made / sum(commits),
        "commit_p95_ms": percentile(commits, 0.95),
        "last_commits_ms": percentile(commits[-20:], 0.5),
        "scan_seconds": scan_seconds,
        "scan_masks_per_second": made / scan_seconds,
        "scan_share": found / made,
        "image_masks_ms": percentile(lookups, 0.5),
        "image_masks_p95_ms": percentile(lookups, 0.95),
        "bytes_per_mask": table_size(store).bytes / made,
    }


def _masks_of(table: MaskTable, image_id: int) -> None:
    found = list(table.masks(image_ids=[image_id]))
    assert len(found) == MASKS_AN_IMAGE, (image_id, len(found))


def random_masks(shard: int, count: int) -> Iterator[Mask]:
    """Outlines that wander from column to column, none like another."""
    rng = np.random.default_rng(shard)
    height, width = SIZE
    widths = np.clip(rng.lognormal(math.log(120), 0.8, count), 4, width - 1).astype(int)
    for number, columns in enumerate(widths.tolist()):
        steps = rng.normal(0, 1.5, (2, columns)).cumsum(axis=1)
        middle = rng.uniform(0.2, 0.8) * height + steps[0]
        half = np.abs(columns / 2 + steps[1]) * np.sin(np.linspace(0.1, math.pi - 0.1, columns))
        top = np.clip(middle - half, 0, height - 3).astype(int)
        bottom = np.clip(middle + half + 2, top + 1, height - 1).astype(int)
        left = int(rng.integers(0, width - columns))
        yield _mask(shard, number, left, top, bottom, rng.uniform(0.8, 1.0))


def _mask(
    shard: int, number: int, left: int, top: np.ndarray, bottom: np.ndarray, score: float
) -> Mask:
    (height, width), columns = SIZE, len(top)
    runs = np.empty(2 * columns + 1, dtype=np.int64)
    runs[0] = left * height + top[0]
    runs[1::2] = bottom - top
    runs[2:-1:2] = height - bottom[:-1] + top[1:]
    runs[-1] = height * width - runs[:-1].sum()
    encoded = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return Mask(
        mask_id=f"{shard:08x}{number:024x}",
        image_id=shard * IMAGES_A_COMMIT + number // MASKS_AN_IMAGE,
        dataset="big",
        stage=Stage.FULLY_AUTOMATIC,
        round=0,
        run_id="run",
        shard=shard,
        model="lite",
        source=Source.AUTOMATIC,
        annotator=None,
        rle=RLE(size=SIZE, counts=encoded["counts"]),
        area=int((bottom - top).sum()),
        box_xyxy=(left, int(top.min()), left + columns, int(bottom.max())),
        predicted_iou=score,
        stability_score=score,
        point_xy=(float(left), float(top[0])),
        crop_xyxy=(0, 0, width, height),
        clicks=0,
        seconds=0.0,
        supersedes=None,
        created_at=CREATED,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--masks", type=int, default=10_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan is not None:
        print(json.dumps(plan(arguments.plan)))
        return
    found: dict[str, float] = {"images": arguments.images}
    with tempfile.TemporaryDirectory(prefix="scale") as name, running_postgres() as server:
        folder = Path(name)
        for ending, share in (("_tenth", 10), ("", 1)):
            images, masks = arguments.images // share, arguments.masks // share
            errors.print(f"{images:,} images and tasks, {masks:,} masks")
            measured = measure_catalog(server, folder, images) | measure_table(folder, masks)
            found |= {f"{key}{ending}": value for key, value in measured.items()}
    if arguments.json:
        print(json.dumps({key: round(value, 3) for key, value in found.items()}))
        return
    for key, value in found.items():
        print(f"{key:28} {value:14,.3f}")


if __name__ == "__main__":
    main()
