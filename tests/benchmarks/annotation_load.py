"""The annotation page under load, over real HTTP against the real server process.

Two parts. Latency: a few annotators at a human pace on a warm queue; how long from a click to its
mask, and how long for the first click on a task. Endurance: many annotators as fast as they can,
the server killed with SIGKILL in the middle and started again; whether a task was with two people
at one time, and whether a mask that the server had confirmed is missing or there twice.

    python -m tests.benchmarks.annotation_load --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from engine.annotation.client import Client
from engine.annotation.embeddings import embedding_key, make_embedding
from engine.annotation.errors import RefusedError
from engine.annotation.schemas import Event, Former, NewMask, Point, TaskView
from engine.core.records import Stage
from flows.stages.commit_answers import commit_answers
from flows.stages.run_context import RunContext
from storage.catalog import RunKind, TaskKind, TaskState
from tests.annotation.site import Site, make_site
from tests.services import free_ports

SIZE = (480, 640)
MODEL = "lite"
RETRY_SECONDS = 0.2
START_SECONDS = 90.0
HUMAN_SECONDS = (0.4, 1.2)
"""Between two clicks of a person."""

ResultT = TypeVar("ResultT")


@dataclass
class Held:
    """A task that somebody had, from taking it to handing it in, on the benchmark's clock."""

    task_id: int
    who: str
    began: float
    ended: float


@dataclass
class Record:
    """What the annotators saw."""

    clicks_ms: list[float] = field(default_factory=list)
    first_clicks_ms: list[float] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    confirmed: dict[int, list[str]] = field(default_factory=dict)
    """Task id to the client ids of the masks the server said it has."""
    retries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def server(site: Site, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The page's server as users start it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", "annotate", "--port", str(port)],
        env={**os.environ, "DATAENGINE_WORKSPACE": str(site.workspace.settings.root)},
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            httpx.get(f"http://127.0.0.1:{port}/api/me")
            break
        except httpx.TransportError:
            time.sleep(0.1)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


class Annotator(threading.Thread):
    """Somebody who takes tasks and clicks, until told to stop."""

    def __init__(self, url: str, name: str, session: str, record: Record, *, human: bool) -> None:
        super().__init__(name=name, daemon=True)
        self.url, self.session, self.record, self.human = url, session, record, human
        self.rng = random.Random(name)
        self.ending = threading.Event()
        self.client: Client | None = None

    def run(self) -> None:
        self.client = self._again(lambda: Client(self.url, session=self.session))
        while not self.ending.is_set():
            found = self._again(lambda: self._client().next_task([TaskKind.ANNOTATE]))
            if found.task is None:
                time.sleep(0.2)
                continue
            self._work(found.task)
        self._client().close()

    def _client(self) -> Client:
        assert self.client is not None
        return self.client

    def _work(self, task: TaskView) -> None:
        began = time.monotonic()
        masks: list[NewMask] = []
        for number in range(self.rng.randint(1, 3)):
            masks.append(self._mask(task, f"{self.name}-{task.id}-{number}", is_first=not number))
        try:
            done = self._again(lambda: self._client().submit(task, masks, seconds=5))
        except RefusedError as error:
            if error.error != "lease_lost":
                raise
            return
        with self.record.lock:
            self.record.held.append(Held(task.id, self.name, began, time.monotonic()))
            self.record.confirmed[task.id] = [mask.client_id for mask in masks]
        assert done.masks == len(masks), (done, masks)

    def _mask(self, task: TaskView, client_id: str, *, is_first: bool) -> NewMask:
        points: list[Point] = []
        former: Former | None = None
        events: list[Event] = []
        best = None
        while best is None or len(points) < 3:
            if self.human:
                time.sleep(self.rng.uniform(*HUMAN_SECONDS))
            x, y = self.rng.uniform(0, SIZE[1] - 1), self.rng.uniform(0, SIZE[0] - 1)
            points.append(Point(x=x, y=y, label=1))
            events.append(Event(kind="click", at=len(points), x=x, y=y, label=1))
            began = time.monotonic()
            asked = list(points)
            answer = self._again(
                lambda asked=asked, former=former: self._client().predict(  # type: ignore[misc]
                    task, asked, former=former, multimask=len(asked) == 1
                )
            )
            took = 1000 * (time.monotonic() - began)
            with self.record.lock:
                only = is_first and len(points) == 1
                (self.record.first_clicks_ms if only else self.record.clicks_ms).append(took)
            former = Former(token=answer.token, candidate=answer.best)
            found = answer.candidates[answer.best]
            best = found if found.area else best
        return NewMask(client_id=client_id, rle=best.rle, seconds=3, trajectory=events)

    def _again(self, call: Callable[[], ResultT]) -> ResultT:
        """Try until the server is there and has time."""
        while True:
            try:
                return call()
            except httpx.TransportError:
                pass
            except RefusedError as error:
                if error.status not in (429, 503):
                    raise
            with self.record.lock:
                self.record.retries += 1
            time.sleep(RETRY_SECONDS)


def prepare(folder: Path, images: int, tasks: int) -> Site:
    """A workspace whose queue is warm: embeddings are made, as when a round opens."""
    site = make_site(folder, images=images, size=SIZE)
    segmenter = site.workspace.segmenter(MODEL)
    for image in site.workspace.catalog.images.get_many(site.image_ids):
        pixels = site.workspace.pixels(image)
        key = embedding_key(MODEL, image.id)
        make_embedding(site.workspace.objects, segmenter, key, pixels)
    for number in range(-(-tasks // images)):
        run_id = f"load{number}"
        site.start_run(run_id, RunKind.ASSISTED_MANUAL)
        site.add_tasks(TaskKind.ANNOTATE, run_id)
    return site


def work(annotators: list[Annotator], seconds: float) -> None:
    """Let them work for so long."""
    for person in annotators:
        person.start()
    time.sleep(seconds)
    for person in annotators:
        person.ending.set()
    for person in annotators:
        person.join(120)
        assert not person.is_alive(), f"{person.name} hangs"


def people(site: Site, url: str, count: int, record: Record, *, human: bool) -> list[Annotator]:
    """Signed-in annotators."""
    found = []
    kind = "human" if human else "busy"
    for number in range(count):
        name = f"{kind}{number}"
        with _signed_in(site, url, name) as client:
            found.append(Annotator(url, name, str(client.session), record, human=human))
    return found


def _signed_in(site: Site, url: str, name: str) -> Client:
    while True:
        try:
            return site.client(url, name)
        except RefusedError as error:
            if error.status != 429:
                raise
            time.sleep(1)


def double_leases(held: list[Held]) -> int:
    """Pairs of different people who had one task at one time."""
    by_task: dict[int, list[Held]] = {}
    for item in held:
        by_task.setdefault(item.task_id, []).append(item)
    return sum(
        a.who != b.who and a.began < b.ended and b.began < a.ended
        for group in by_task.values()
        for i, a in enumerate(group)
        for b in group[:i]
    )


def kept(site: Site, record: Record) -> tuple[int, int]:
    """Confirmed masks that the table lacks, and masks that it has more than once."""
    found: dict[str, int] = {}
    for run in site.workspace.catalog.runs.all(kind=RunKind.ASSISTED_MANUAL, limit=10_000):
        context = RunContext(
            run_id=run.id,
            dataset="d",
            dataset_id=site.dataset_id,
            stage=Stage.ASSISTED_MANUAL,
            round=1,
            model=MODEL,
        )
        commit_answers(site.workspace, context)
        for mask in site.workspace.masks.masks(run_id=run.id):
            name = mask.mask_id.rsplit("/", 1)[1].partition("-")[2]
            found[name] = found.get(name, 0) + 1
    wanted = [name for names in record.confirmed.values() for name in names]
    lost = sum(name not in found for name in wanted)
    return lost, sum(count - 1 for count in found.values())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both parts; the figures."""
    with tempfile.TemporaryDirectory() as folder:
        site = prepare(Path(folder) / "ws", arguments.images, arguments.tasks)
        site.link("somebody")
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        calm, busy = Record(), Record()
        with server(site, port) as process:
            work(people(site, url, arguments.humans, calm, human=True), arguments.calm_seconds)
            crowd = people(site, url, arguments.annotators, busy, human=False)
            killer = threading.Timer(arguments.seconds / 2, process.send_signal, [signal.SIGKILL])
            killer.start()
            restarted: list[Any] = []

            def restart() -> None:
                process.wait()
                restarted.append(server(site, port))
                restarted[0].__enter__()

            again = threading.Thread(target=restart, daemon=True)
            again.start()
            work(crowd, arguments.seconds)
            again.join(START_SECONDS)
        restarted[0].__exit__(None, None, None)
        lost, doubled = kept(site, busy)
        lost_calm, doubled_calm = kept(site, calm)
        states = site.workspace.queue.counts()
        everything = np.array(calm.clicks_ms + calm.first_clicks_ms)
        return {
            "click_p50_ms": round(float(np.percentile(everything, 50)), 1),
            "click_p95_ms": round(float(np.percentile(everything, 95)), 1),
            "first_click_p95_ms": round(float(np.percentile(calm.first_clicks_ms, 95)), 1),
            "double_leases": double_leases(busy.held) + double_leases(calm.held),
            "lost_masks": lost + lost_calm,
            "doubled_masks": max(doubled, doubled_calm),
            "clicks": len(everything),
            "first_clicks": len(calm.first_clicks_ms),
            "humans": arguments.humans,
            "annotators": arguments.annotators,
            "seconds": arguments.seconds,
            "busy_clicks": len(busy.clicks_ms) + len(busy.first_clicks_ms),
            "busy_click_p50_ms": round(float(np.percentile(busy.clicks_ms, 50)), 1),
            "busy_tasks": len(busy.confirmed),
            "retries": busy.retries,
            "tasks_submitted": states[TaskState.SUBMITTED],
        }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotators", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=60, help="of the endurance part")
    parser.add_argument("--humans", type=int, default=5)
    parser.add_argument("--calm-seconds", type=float, default=40, help="of the latency part")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments)
    if not arguments.json:
        for name, value in found.items():
            print(f"{name:20} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
