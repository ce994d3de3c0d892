"""The page Browse over a large dataset, over real HTTP against the real server process.

    python -m tests.benchmarks.browse --json
    python -m tests.benchmarks.browse --masks 100000 --requests 80 --json

One person asks for first pages, pages with random filters, pages deep in a random order, and
histograms, in turn, as fast as the page's rate allows. Ten masks an image, in commits of 10,000;
their outlines are random ones of which each commit has the same. Figures: p50 and p95 of each kind
of request, the time of the first request, which reads the table, and of the one after another
commit, and the server's peak memory after the first and the last request.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from deltalake import write_deltalake
from rich.console import Console

from engine.annotation.client import Client
from storage.catalog import NewImage, NewTask, NewVerdict, RunKind, TaskKind, VerdictKind
from storage.masks import to_batch
from tests.annotation.site import Site, make_site
from tests.benchmarks.annotation_load import server
from tests.benchmarks.scale import MASKS_AN_IMAGE, SIZE, percentile, random_masks
from tests.services import free_ports

ROWS = 10_000
"""Masks of one commit."""
JUDGED_IMAGES = 1_000
SORTS = ("predicted_iou", "stability_score", "area", "created_at")
KINDS = ("first_page", "filter", "sort", "histogram")
PAUSE_SECONDS = 0.055
"""Between two requests: the server answers 20 per second to one person."""
SETTLE_SECONDS = 5.0
"""Until the server's allowance of requests is full again."""

errors = Console(stderr=True)


def prepare(folder: Path, masks: int) -> tuple[Site, pa.Table]:
    """A site whose dataset has so many masks; and the rows of another commit."""
    site = make_site(folder, images=1)
    catalog = site.workspace.catalog
    images = masks // MASKS_AN_IMAGE
    ids: list[int] = []
    for start in range(0, images + ROWS // MASKS_AN_IMAGE, 1_000):
        rows = [
            NewImage(
                sha256=f"{number:064x}",
                key=f"images/{number}",
                file_name=f"photo-{number:07d}.jpg",
                height=SIZE[0],
                width=SIZE[1],
            )
            for number in range(start, start + 1_000)
        ]
        ids += catalog.images.add_many(site.dataset_id, rows).ids
    base = pa.Table.from_batches([to_batch(list(random_masks(0, ROWS)))])
    table = site.workspace.masks
    table.commit([], run_id="begin", shard=0)  # makes the table
    commits = list(_commits(base, np.array(ids), -(-masks // ROWS) + 1))
    for rows in commits[:-1]:
        write_deltalake(table.uri, rows, mode="append")
    _judge(site, commits[0], ids)
    return site, commits[-1]


def _commits(base: pa.Table, ids: np.ndarray, count: int) -> Iterator[pa.Table]:
    """Rows of SCHEMA with values of many kinds, made column by column."""
    rng = np.random.default_rng(1)
    began = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    for shard in range(count):
        number = np.arange(ROWS)
        image = ids[shard * (ROWS // MASKS_AN_IMAGE) + number // MASKS_AN_IMAGE]
        run = f"{shard:032x}"
        scores = rng.beta(8, 1.5, (2, ROWS)).astype(np.float32)
        made = (began + shard * 3600 + number) * 1e6
        columns = {
            "mask_id": [f"{run}/{i}/{n:04d}" for i, n in zip(image, number, strict=True)],
            "image_id": image,
            "dataset": ["d"] * ROWS,
            "stage": rng.choice(["assisted_manual", "semi_automatic", "fully_automatic"], ROWS),
            "round": rng.integers(0, 5, ROWS),
            "run_id": [run] * ROWS,
            "model": rng.choice(["lite", "d-1", "d-2"], ROWS),
            "source": rng.choice(["annotator", "prefill", "automatic"], ROWS),
            "annotator": rng.choice([*(f"person-{n}" for n in range(20))], ROWS),
            "predicted_iou": np.where(rng.random(ROWS) < 0.1, np.nan, scores[0]),
            "stability_score": scores[1],
            "created_at": made.astype("datetime64[us]"),
        }
        rows = base
        for name, values in columns.items():
            field = rows.schema.field(name)
            array = pa.array(values, from_pandas=True).cast(field.type)
            rows = rows.set_column(rows.schema.get_field_index(name), field, array)
        yield rows


def _judge(site: Site, rows: pa.Table, ids: list[int]) -> None:
    """Verdicts on the masks of one commit."""
    site.start_run("judged", RunKind.REVIEW)
    catalog, chosen = site.workspace.catalog, ids[:JUDGED_IMAGES]
    site.workspace.queue.add(
        [
            NewTask(dataset_id=site.dataset_id, image_id=one, kind=TaskKind.REVIEW, run_id="judged")
            for one in chosen
        ]
    )
    tasks = site.workspace.queue.upcoming(kinds=[TaskKind.REVIEW], limit=JUDGED_IMAGES)
    of_image = {task.image_id: task.id for task in tasks}
    person = catalog.annotators.get_or_create("somebody")
    kinds = [VerdictKind.ACCEPT, VerdictKind.REJECT]
    found = zip(rows["mask_id"].to_pylist(), rows["image_id"].to_pylist(), strict=True)
    catalog.verdicts.add_many(
        [
            NewVerdict(
                mask_id=mask_id,
                task_id=of_image[image_id],
                verdict=kinds[number % 2],
                annotator_id=person.id,
                seconds=1.0,
            )
            for number, (mask_id, image_id) in enumerate(found)
            if image_id in of_image
        ]
    )


def random_filters(rng: random.Random) -> dict[str, Any]:
    """One to four filters."""
    low = rng.uniform(0.5, 0.9)
    every = {
        "stage": rng.choice(["assisted_manual", "semi_automatic", "fully_automatic"]),
        "round": rng.sample(range(5), 2),
        "source": rng.choice(["annotator", "prefill", "automatic"]),
        "annotator": [f"person-{n}" for n in rng.sample(range(20), 3)],
        "model": rng.choice(["lite", "d-1", "d-2"]),
        "verdict": rng.choice(["none", "accept", "reject"]),
        "predicted_iou_min": low,
        "stability_score_max": rng.uniform(0.7, 1.0),
        "area_min": rng.choice([100, 1_000, 10_000]),
        "created_at_min": "2026-01-01T12:00:00",
        "near_duplicates": rng.choice(["with", "without"]),
    }
    return {name: every[name] for name in rng.sample(sorted(every), rng.randint(1, 4))}


def request_of(kind: str, rng: random.Random, total: int) -> tuple[str, dict[str, Any]]:
    """The path and the query of a request of this kind."""
    if kind == "first_page":
        return "masks", {}
    if kind == "filter":
        return rng.choice(["masks", "images"]), random_filters(rng)
    if kind == "sort":
        order = {"sort": rng.choice(SORTS), "descending": rng.random() < 0.5}
        return "masks", {**order, "offset": rng.randrange(total)}
    return "figures", random_filters(rng) if rng.random() < 0.7 else {}


def peak_mib(process: psutil.Process) -> float:
    """Peak memory of the server; on systems that do not tell it, its memory now."""
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return float(process.memory_info().rss) / 2**20


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All requests; the figures."""
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="browse") as folder:
        began = time.perf_counter()
        site, another = prepare(Path(folder) / "ws", arguments.masks)
        errors.print(f"{arguments.masks:,} masks made in {time.perf_counter() - began:.0f} s")
        token = site.link("rita", "reviewer")
        (port,) = free_ports(1)
        with server(site, port) as process:
            found = _ask_all(arguments, rng, process.pid, f"http://127.0.0.1:{port}", token)
            url, table = f"http://127.0.0.1:{port}", site.workspace.masks
            with Client(url, token=site.link("rita", "reviewer")) as client:
                write_deltalake(table.uri, another, mode="append")
                time.sleep(SETTLE_SECONDS)
                found["after_commit_seconds"] = _timed(lambda: _get(client, "masks", {}))
                found["outlines_p95_ms"] = percentile(list(_outlines(client, rng)), 0.95)
    return found


def _ask_all(
    arguments: argparse.Namespace, rng: random.Random, pid: int, url: str, token: str
) -> dict[str, Any]:
    spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
    process = psutil.Process(pid)
    with Client(url, token=token) as client:
        before = peak_mib(process)
        first = _timed(lambda: _get(client, "masks", {}))
        total = _get(client, "masks", {})["total"]
        peak_first = peak_mib(process)
        peaks = []
        for number in range(arguments.requests):
            kind = KINDS[number % len(KINDS)]
            path, query = request_of(kind, rng, total)
            spent[kind].append(_timed(lambda: _get(client, path, query)))  # noqa: B023
            peaks.append(peak_mib(process))
            time.sleep(PAUSE_SECONDS)
    found: dict[str, Any] = {"masks": total, "requests": arguments.requests}
    for kind, times in spent.items():
        found[f"{kind}_p50_ms"] = percentile(times, 0.5)
        found[f"{kind}_p95_ms"] = percentile(times, 0.95)
    found["browse_p95_ms"] = max(found[f"{kind}_p95_ms"] for kind in KINDS)
    found |= {
        "first_request_seconds": first,
        "peak_mib_before": before,
        "peak_mib_after_first": peak_first,
        "peak_mib_after_tenth": peaks[min(9, len(peaks) - 1)],
        "peak_mib_after_last": peaks[-1],
    }
    return found


def _outlines(client: Client, rng: random.Random) -> Iterator[float]:
    """The shapes of twelve masks that lie together, and of twelve that do not."""
    for number in range(20):
        query = {"sort": "predicted_iou"} if number % 2 else {}
        page = _get(client, "masks", {**query, "limit": 12, "offset": rng.randrange(10_000)})
        time.sleep(PAUSE_SECONDS)
        chosen = {
            "mask_id": [mask["mask_id"] for mask in page["masks"]],
            "image_id": [mask["image"]["id"] for mask in page["masks"]],
        }
        yield _timed(lambda: _get(client, "outlines", chosen))  # noqa: B023
        time.sleep(PAUSE_SECONDS)


def _get(client: Client, path: str, query: dict[str, Any]) -> Any:
    params = {"dataset": "d", **query}
    return client._http.get(f"/api/browse/{path}", params=params).raise_for_status().json()


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {name: round(value, 3) for name, value in measure(arguments).items()}
    if not arguments.json:
        for name, value in found.items():
            print(f"{name:24} {value:14,.3f}")
    sys.stdout.flush()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
