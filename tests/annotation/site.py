"""A workspace with images and tasks, and its annotation page on a real port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from engine.annotation.access import new_link_token
from engine.annotation.client import Client
from engine.core import rle as rle_codec
from engine.core.records import Mask, Source, Stage
from engine.simulation.scenes import Scene, generate_scene
from flows.page.make_app import make_app
from flows.workspace.workspace import Workspace
from storage.catalog import NewImage, NewTask, RunKind, TaskKind
from storage.formats.images import write_png
from storage.masks import write_parquet
from tests.prepared import prepared_workspace

SIZE = (160, 224)
FIRST_SEED = 31_000_000


@dataclass(frozen=True)
class Site:
    """A workspace with a dataset `d`, whose nth image is `scenes[n]`."""

    workspace: Workspace
    dataset_id: int
    image_ids: list[int]
    scenes: list[Scene]

    def masks_of(self, number: int) -> list[np.ndarray]:
        """The true masks of the nth image, largest first."""
        return sorted(self.scenes[number].masks, key=lambda mask: -int(mask.sum()))

    def mask_rows(
        self, number: int, run_id: str, source: Source, stage: Stage, limit: int = 3
    ) -> list[Mask]:
        """Rows for the nth image's largest true masks."""
        rows = []
        for index, mask in enumerate(self.masks_of(number)[:limit]):
            rle = rle_codec.encode(mask)
            rows.append(
                Mask(
                    mask_id=f"{run_id}/{self.image_ids[number]}/{index}",
                    image_id=self.image_ids[number],
                    dataset="d",
                    stage=stage,
                    round=1,
                    run_id=run_id,
                    shard=0,
                    model="lite",
                    source=source,
                    rle=rle,
                    area=rle_codec.area(rle),
                    box_xyxy=rle_codec.box_xyxy(rle),
                    predicted_iou=0.9,
                    created_at=datetime.now(UTC),
                )
            )
        return rows

    def start_run(self, run_id: str, kind: RunKind) -> None:
        model = self.workspace.current_model().version
        self.workspace.catalog.runs.start(
            run_id, kind, dataset_id=self.dataset_id, model=model, code_version="test"
        )

    def add_tasks(
        self, kind: TaskKind, run_id: str, payloads: Sequence[dict[str, Any]] | None = None
    ) -> None:
        """A task of the kind for each image."""
        self.workspace.queue.add(
            [
                NewTask(
                    dataset_id=self.dataset_id,
                    image_id=image_id,
                    kind=kind,
                    run_id=run_id,
                    payload=payloads[n] if payloads else {},
                )
                for n, image_id in enumerate(self.image_ids)
            ]
        )

    def annotate(self) -> None:
        """Queue all images without masks, in run `annotate`."""
        self.start_run("annotate", RunKind.ASSISTED_MANUAL)
        self.add_tasks(TaskKind.ANNOTATE, "annotate")

    def complete(self) -> None:
        """Queue all images with pre-filled masks, in run `complete`."""
        self.start_run("complete", RunKind.SEMI_AUTOMATIC)
        payloads = []
        for number, image_id in enumerate(self.image_ids):
            key = f"prefill/complete/{image_id}.parquet"
            rows = self.mask_rows(number, "complete", Source.PREFILL, Stage.SEMI_AUTOMATIC)
            self.workspace.objects.put(key, write_parquet(rows))
            payloads.append({"prefill": key})
        self.add_tasks(TaskKind.COMPLETE, "complete", payloads)

    def review(self, stage: Stage = Stage.FULLY_AUTOMATIC) -> None:
        """Commit automatic masks of all images, in run `made`, and queue them in run `review`."""
        rows = [
            self.mask_rows(n, "made", Source.AUTOMATIC, stage) for n in range(len(self.image_ids))
        ]
        self.start_run("made", RunKind.FULLY_AUTOMATIC)
        self.workspace.masks.commit([m for group in rows for m in group], run_id="made", shard=0)
        self.start_run("review", RunKind.REVIEW)
        payloads = [{"mask_ids": [mask.mask_id for mask in group]} for group in rows]
        self.add_tasks(TaskKind.REVIEW, "review", payloads)

    def link(self, name: str, role: str = "annotator") -> str:
        """The token of a fresh sign-in link."""
        person = self.workspace.catalog.annotators.get_or_create(name, role=role)
        return new_link_token(self.workspace.catalog, person)

    def client(self, url: str, name: str, role: str = "annotator") -> Client:
        """A client of a signed-in annotator."""
        return Client(url, token=self.link(name, role))


def make_site(
    folder: Path,
    images: int = 3,
    size: tuple[int, int] = SIZE,
    kind: str | None = None,
    *,
    settings: str = "",
) -> Site:
    """A prepared workspace with generated scenes as dataset `d`, of one kind or of all; `settings`:
    further lines of its settings."""
    workspace = prepared_workspace(folder, f"people_lease_seconds = 30.0\n{settings}")
    scenes = [generate_scene(FIRST_SEED + number, size, kind) for number in range(images)]
    rows = []
    for number, scene in enumerate(scenes):
        data = write_png(scene.image_HWC)
        key = f"images/{number}.png"
        workspace.objects.put(key, data)
        rows.append(
            NewImage(
                sha256=sha256(data).hexdigest(),
                key=key,
                file_name=f"{number}.png",
                height=size[0],
                width=size[1],
            )
        )
    dataset = workspace.catalog.datasets.get_or_create("d")
    ids = [workspace.catalog.images.add_many(dataset.id, [row]).ids[0] for row in rows]
    return Site(workspace, dataset.id, ids, scenes)


@contextmanager
def served(workspace: Workspace, *, local: bool = False, port: int = 0) -> Iterator[str]:
    """The page of a workspace, on a free port or on this one; its address.

    Args:
        local: nobody has to sign in. Else somebody is entered, so that everybody has to.
    """
    if not local:
        workspace.catalog.annotators.get_or_create("somebody")
    app = make_app(workspace, "127.0.0.1", [])
    config = uvicorn.Config(
        app, port=port, log_level="error", timeout_graceful_shutdown=1, proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive(), "the server did not start"
    chosen = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{chosen}"
    finally:
        server.should_exit = True
        thread.join()
