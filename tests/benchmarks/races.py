"""Many processes that lease from one catalog as fast as they can.

    python -m tests.benchmarks.races --json                 # 16 processes, 60 s, four races
    python -m tests.benchmarks.races --processes 4 --seconds 5 --databases sqlite

A race for tasks and one for shards, on SQLite and on a real PostgreSQL. Of ten leases a process
commits seven and gives one back; one is short, and is renewed before the commit; and one is short
and left to expire, and committed late, when somebody else has the task or shard by then. Every
process notes what it was given and when, and the notes are compared with each other and with the
catalog. These must be zero:

- `given_twice`: leases that were given while another on the same task or shard was still good;
- `committed_twice`: commits that succeeded on what was committed before;
- `lost`: commits that succeeded, and are not in the catalog under their lease;
- `unclaimed`: commits in the catalog that no process knows of;
- `unheard`: leases that the catalog has counted and no process was given.

The PostgreSQL is one for tests, which does not wait for the disk; SQLite does.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import cycle
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from rich.console import Console
from sqlalchemy import Select, case, select, text

from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Catalog,
    CatalogUnavailableError,
    LeaseLostError,
    NewTask,
    RunKind,
    ShardState,
    TaskKind,
    TaskState,
)
from storage.catalog.tables import ShardRow, TaskRow
from tests.contract.database_fixtures import (
    DatabaseServer,
    PostgresDatabases,
    SqliteFiles,
    make_world,
)
from tests.postgres import running_postgres

RUN = "run"
LONG_SECONDS = 600.0
SHORT_SECONDS = 0.3
LATE_SECONDS = 0.1
"""After a lease has expired, until its holder commits all the same."""
ROWS_A_SECOND = 1000
"""So many tasks or shards are made for every second of a race."""
IMAGES = 1000
START_SECONDS = 120.0
DATABASES = ["postgresql", "sqlite"]
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
WRONG = ("given_twice", "committed_twice", "lost", "unclaimed", "unheard")
"""The figures that must be zero."""

errors = Console(stderr=True)
ResultT = TypeVar("ResultT")
Lease = tuple[int, str | None, datetime | None]
"""Id of a task or number of a shard, lease id, and when the lease expires."""


def clock() -> datetime:
    """The machine's monotonic clock, which all its processes share, as the catalog's time."""
    return EPOCH + timedelta(seconds=time.monotonic())


class Way(StrEnum):
    """What a process does with a lease."""

    COMMIT = "commit"
    RELEASE = "release"
    RENEW = "renew"
    LEAVE = "leave"


class Ending(StrEnum):
    """What became of a lease."""

    COMMITTED = "committed"
    RELEASED = "released"
    REFUSED = "refused"
    LEFT = "left"


WAYS = (Way.LEAVE, *[Way.COMMIT] * 4, Way.RENEW, *[Way.COMMIT] * 3, Way.RELEASE)
"""In turn."""


@dataclass(slots=True)
class Hold:
    """A lease as its holder saw it; times are seconds of the monotonic clock."""

    id: int
    """The task's or the shard's."""
    lease_id: str
    waited: float
    """Seconds, for the lease."""
    began: float
    """When the lease had been given."""
    expires: float
    ending: Ending = Ending.LEFT
    ended: float = 0.0
    """Just before it was committed or given back."""

    @property
    def valid_until(self) -> float:
        """Before this nobody else may be given the same."""
        if self.ending is Ending.COMMITTED:
            return math.inf
        return self.ended if self.ending is Ending.RELEASED else self.expires


@dataclass(frozen=True, slots=True)
class Row:
    """A task or shard as the catalog has it."""

    id: int
    committed_by: str | None
    """The lease."""
    attempts: int
    expiries: int


class Prizes(Protocol):
    """What a process races for."""

    def __init__(self, catalog: Catalog, racer: int) -> None: ...

    @staticmethod
    def make(catalog: Catalog, count: int) -> None: ...

    @staticmethod
    def rows() -> Select[Any]: ...

    def lease(self, seconds: float) -> Lease | None: ...

    def renew(self, number: int, lease_id: str) -> datetime: ...

    def commit(self, number: int, lease_id: str) -> None: ...

    def release(self, number: int, lease_id: str) -> None: ...


class Tasks:
    """Tasks of the annotation queue, leased as the page does."""

    def __init__(self, catalog: Catalog, racer: int) -> None:
        self._queue = AnnotationQueue(catalog, clock=clock)
        self._annotator = catalog.annotators.get_or_create(f"racer {racer}").id

    @staticmethod
    def make(catalog: Catalog, count: int) -> None:
        world = make_world(catalog, IMAGES)
        queue, dataset = AnnotationQueue(catalog, clock=clock), world.dataset.id
        for number in range(-(-count // IMAGES)):
            run = f"{RUN} {number}"
            catalog.runs.start(run, RunKind.ASSISTED_MANUAL, dataset_id=dataset)
            new = partial(NewTask, dataset_id=dataset, kind=TaskKind.ANNOTATE, run_id=run)
            queue.add([new(image_id=image) for image in world.image_ids])

    @staticmethod
    def rows() -> Select[Any]:
        done = case((TaskRow.state == TaskState.SUBMITTED, TaskRow.lease_id))
        return select(TaskRow.id, done, TaskRow.attempts, TaskRow.expiries)

    def lease(self, seconds: float) -> Lease | None:
        task = self._queue.lease(self._annotator, kinds=[TaskKind.ANNOTATE], seconds=seconds)
        return None if task is None else (task.id, task.lease_id, task.lease_expires_at)

    def renew(self, number: int, lease_id: str) -> datetime:
        return self._queue.renew(number, lease_id, LONG_SECONDS)

    def commit(self, number: int, lease_id: str) -> None:
        self._queue.submit(number, lease_id, result_key=lease_id)

    def release(self, number: int, lease_id: str) -> None:
        self._queue.release(number, lease_id)


class Shards:
    """Shards of one run, leased as the workers of `dataengine generate` do."""

    def __init__(self, catalog: Catalog, racer: int) -> None:
        self._shards = catalog.shards
        self._owner = f"racer {racer}"

    @staticmethod
    def make(catalog: Catalog, count: int) -> None:
        image, *_ = make_world(catalog, 1).image_ids
        catalog.shards.plan(RUN, ([image] for _ in range(count)))

    @staticmethod
    def rows() -> Select[Any]:
        done = case((ShardRow.state == ShardState.COMMITTED, ShardRow.lease_id))
        return select(ShardRow.shard, done, ShardRow.attempts, ShardRow.expiries)

    def lease(self, seconds: float) -> Lease | None:
        shard = self._shards.lease(RUN, self._owner, seconds)
        return None if shard is None else (shard.shard, shard.lease_id, shard.lease_expires_at)

    def renew(self, number: int, lease_id: str) -> datetime:
        return self._shards.renew(RUN, number, lease_id, LONG_SECONDS)

    def commit(self, number: int, lease_id: str) -> None:
        self._shards.commit(RUN, number, lease_id, masks=0, table_version=None, seconds=0)

    def release(self, number: int, lease_id: str) -> None:
        self._shards.release(RUN, number, lease_id)


KINDS: dict[str, type[Prizes]] = {"tasks": Tasks, "shards": Shards}


# A process


class Racer:
    """One process's leases, and how often the database had no time or there was nothing free."""

    def __init__(self, prizes: Prizes) -> None:
        self._prizes = prizes
        self._left: deque[Hold] = deque()
        self.holds: list[Hold] = []
        self.unavailable = 0
        self.idle = 0

    def run(self, seconds: float) -> None:
        """Race for so long. What is left to expire at the end stays so."""
        until = time.monotonic() + seconds
        for way in cycle(WAYS):
            if time.monotonic() >= until:
                return
            if self._left and time.monotonic() > self._left[0].expires + LATE_SECONDS:
                self._end(self._left.popleft(), Ending.COMMITTED)
            self._turn(way)

    def _turn(self, way: Way) -> None:
        hold = self._lease(SHORT_SECONDS if way in (Way.RENEW, Way.LEAVE) else LONG_SECONDS)
        if hold is None:
            self.idle += 1
            time.sleep(0.01)
            return
        self.holds.append(hold)
        if way is Way.LEAVE:
            self._left.append(hold)
        elif way is Way.RELEASE:
            self._end(hold, Ending.RELEASED)
        elif way is Way.COMMIT or self._renew(hold):
            self._end(hold, Ending.COMMITTED)

    def _lease(self, seconds: float) -> Hold | None:
        asked = time.monotonic()
        found = self._again(lambda: self._prizes.lease(seconds))
        began = time.monotonic()
        if found is None:
            return None
        number, lease_id, expires = found
        assert lease_id is not None
        assert expires is not None
        return Hold(number, lease_id, began - asked, began, (expires - EPOCH).total_seconds())

    def _renew(self, hold: Hold) -> bool:
        try:
            expires = self._again(lambda: self._prizes.renew(hold.id, hold.lease_id))
        except LeaseLostError:
            hold.ending = Ending.REFUSED
            return False
        hold.expires = (expires - EPOCH).total_seconds()
        return True

    def _end(self, hold: Hold, ending: Ending) -> None:
        call = self._prizes.commit if ending is Ending.COMMITTED else self._prizes.release
        hold.ended = time.monotonic()
        try:
            self._again(lambda: call(hold.id, hold.lease_id))
            hold.ending = ending
        except LeaseLostError:
            hold.ending = Ending.REFUSED

    def _again(self, call: Callable[[], ResultT]) -> ResultT:
        """Try until the database has time."""
        while True:
            try:
                return call()
            except CatalogUnavailableError as error:
                self.unavailable += 1
                errors.print(error, markup=False)


def race_alone(
    url: str, kind: str, number: int, seconds: float, barrier: Barrier, file: Path
) -> None:
    """What one process does: be ready, start with the others, and write its notes to the file."""
    with Catalog(url, clock=clock) as catalog:
        racer = Racer(KINDS[kind](catalog, number))
        catalog.check()
        barrier.wait(START_SECONDS)
        racer.run(seconds)
    holds = [asdict(hold) for hold in racer.holds]
    notes = {"holds": holds, "unavailable": racer.unavailable, "idle": racer.idle}
    file.write_text(json.dumps(notes))


# All of them


def race(url: str, kind: str, folder: Path, *, processes: int, seconds: float) -> dict[str, float]:
    """Race for what `kind` says on a catalog that is migrated and empty, with the processes'
    notes in the folder.

    Returns:
        The figures; those named in WRONG must be zero.

    Raises:
        RuntimeError: a process failed.
    """
    with Catalog(url, clock=clock) as catalog:
        KINDS[kind].make(catalog, math.ceil(ROWS_A_SECOND * seconds))
        _analyze(catalog)
        files = [folder / f"{kind}-{number}.json" for number in range(processes)]
        _run_all(url, kind, seconds, files)
        notes = [json.loads(file.read_text()) for file in files]
        with catalog.reading() as session:
            rows = [Row(*row) for row in session.execute(KINDS[kind].rows())]
    holds = [
        Hold(**note | {"ending": Ending(note["ending"])}) for one in notes for note in one["holds"]
    ]
    counts = [len(one["holds"]) for one in notes]
    return {
        "leases_per_second": len(holds) / seconds,
        **speed(holds),
        "fewest_leases": min(counts),
        "most_leases": max(counts),
        "unavailable": sum(one["unavailable"] for one in notes),
        "idle": sum(one["idle"] for one in notes),
        **outcome(holds, rows),
        "given_twice": given_twice(holds),
        **compare(holds, rows),
    }


def _analyze(catalog: Catalog) -> None:
    """What PostgreSQL does by itself within a minute: learn what is in the new rows."""
    if catalog.engine.dialect.name == "postgresql":
        with catalog.session() as session:
            session.execute(text("ANALYZE"))
            session.commit()


def _run_all(url: str, kind: str, seconds: float, files: list[Path]) -> None:
    context = multiprocessing.get_context("forkserver")
    # What takes long is imported once, not in every process.
    context.set_forkserver_preload(
        ["storage.annotation_queue", "tests.contract.database_fixtures", "rich.console"]
    )
    barrier = context.Barrier(len(files))
    workers = [
        context.Process(
            target=race_alone, args=(url, kind, number, seconds, barrier, file), daemon=True
        )
        for number, file in enumerate(files)
    ]
    try:
        for worker in workers:
            worker.start()
        for number, worker in enumerate(workers):
            worker.join(seconds + 2 * START_SECONDS)
            if worker.exitcode != 0:
                raise RuntimeError(f"process {number} ended with {worker.exitcode}")
    finally:
        for worker in workers:
            worker.kill()


def speed(holds: list[Hold]) -> dict[str, float]:
    """How long a lease takes, in milliseconds."""
    p50, p95, longest = 1000 * np.percentile([hold.waited for hold in holds], [50, 95, 100])
    return {"lease_p50_ms": float(p50), "lease_p95_ms": float(p95), "lease_max_ms": float(longest)}


def outcome(holds: list[Hold], rows: list[Row]) -> dict[str, float]:
    """What became of the leases. Of those that expired: `takeovers` (somebody else was given the
    same), `refused` (and the first holder came too late), `late_commits` (nobody else had it), and
    `over_at_once` (the lease had expired when its holder got it)."""
    endings = Counter(hold.ending for hold in holds)
    late = [hold for hold in holds if hold.ending is Ending.COMMITTED and hold.ended > hold.expires]
    return {
        "committed": endings[Ending.COMMITTED],
        "released": endings[Ending.RELEASED],
        "expiries": sum(row.expiries for row in rows),
        "takeovers": sum(
            former.ending is not Ending.RELEASED for same in _by_id(holds) for former in same[:-1]
        ),
        "refused": endings[Ending.REFUSED],
        "late_commits": len(late),
        "over_at_once": sum(hold.began >= hold.expires for hold in holds),
    }


def given_twice(holds: Iterable[Hold]) -> int:
    """How many leases were given while another on the same was still good: before it expired or
    was given back, or at any time after one that was committed. Only what is certain counts: a
    lease holds from when its holder was told."""
    found = 0
    for same in _by_id(holds):
        until = -math.inf
        for hold in same:
            if hold.began < hold.valid_until:  # else it was over before its holder was told
                found += hold.began < until
                until = max(until, hold.valid_until)
    return found


def compare(holds: list[Hold], rows: list[Row]) -> dict[str, float]:
    """Where the processes' notes and the catalog differ."""
    noted = Counter((h.id, h.lease_id) for h in holds if h.ending is Ending.COMMITTED)
    stored = {(row.id, row.committed_by) for row in rows if row.committed_by is not None}
    return {
        "committed_twice": noted.total() - len({number for number, _ in noted}),
        "lost": sum(one not in stored for one in noted),
        "unclaimed": sum(one not in noted for one in stored),
        "unheard": sum(row.attempts for row in rows) - len(holds),
    }


def _by_id(holds: Iterable[Hold]) -> Iterable[list[Hold]]:
    """The holds of each task or shard, in their order."""
    found: dict[int, list[Hold]] = {}
    for hold in sorted(holds, key=lambda hold: hold.began):
        found.setdefault(hold.id, []).append(hold)
    return found.values()


@contextmanager
def database(name: str, folder: Path) -> Iterator[DatabaseServer]:
    """SQLite files in the folder, or a PostgreSQL that is gone afterwards."""
    if name == "sqlite":
        yield SqliteFiles(folder)
        return
    with running_postgres() as server:
        yield PostgresDatabases(server)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="of each race")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    races: dict[str, dict[str, float]] = {}
    for name in arguments.databases:
        with tempfile.TemporaryDirectory(prefix="races") as place:
            folder = Path(place)
            with database(name, folder) as server:
                for kind in arguments.kinds:
                    errors.print(f"{kind} on {name}")
                    url, seconds = server.migrated(), arguments.seconds
                    races[f"{name}_{kind}"] = race(
                        url, kind, folder, processes=arguments.processes, seconds=seconds
                    )
    totals = {key: sum(one[key] for one in races.values()) for key in WRONG}
    found = {"processes": arguments.processes, "seconds": arguments.seconds, **totals}
    for name, one in races.items():
        found |= {f"{name}_{key}": round(value, 2) for key, value in one.items()}
    if not arguments.json:
        for key, value in found.items():
            print(f"{key:36} {value:12,}")
        return
    print(json.dumps(found))


if __name__ == "__main__":
    main()
