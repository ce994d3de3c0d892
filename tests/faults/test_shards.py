"""One shard, several workers, each a real process: whatever happens to them, one commit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from deltalake import DeltaTable

from flows.fully_automatic import next_shard, start_generate
from flows.ingest import ingest_folder
from flows.settings import FILE_NAME
from flows.wiring import Workspace, open_workspace
from storage.catalog import ShardState
from tests.contract.database_fixtures import (
    DatabaseServer,
    database_server_fixture,  # noqa: F401 - a fixture
)
from tests.faults.shard_worker import wait_for
from tests.flows.conftest import TOML, write_scenes

pytestmark = pytest.mark.slow

LEASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Worker:
    """A process of `shard_worker`, and the folder of its signals."""

    process: subprocess.Popen[bytes]
    folder: Path

    def start(self) -> None:
        (self.folder / "start").touch()

    def go(self) -> None:
        (self.folder / "go").touch()

    def reaches(self, name: str) -> None:
        wait_for(self.folder / name)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def ends_well(self) -> None:
        assert self.process.wait(timeout=60) == 0, (self.folder / "log").read_text()


class Crew:
    """A workspace with one shard to do, and workers for it."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self.workspace, self._folder = workspace, folder
        self._workers: list[Worker] = []

    def hire(self, point: str = "never") -> Worker:
        """A worker that is ready to start and will wait at that point."""
        folder = self._folder / f"worker-{len(self._workers)}"
        folder.mkdir()
        command = [sys.executable, "-m", "tests.faults.shard_worker"]
        command += [str(self.workspace.settings.root), "run", point, str(folder)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self._workers.append(Worker(process, folder))
        return self._workers[-1]

    def dismiss(self) -> None:
        """End whoever is left."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()

    def assert_one_commit(self, attempts: int) -> None:
        """The run's masks are those of an undisturbed run, each once, by one commit."""
        (shard,) = self.workspace.catalog.shards.all("run")
        assert (shard.state, shard.attempts) == (ShardState.COMMITTED, attempts)
        commits = [
            entry["version"]
            for entry in DeltaTable(self.workspace.masks.uri).history()
            if entry.get("run_id") == "run"
        ]
        assert commits == [shard.table_version]
        _plan(self.workspace, "undisturbed")
        assert next_shard(self.workspace, "undisturbed") == 3
        masks = self._contents("run")
        assert masks == self._contents("undisturbed")
        assert masks.total() == shard.masks
        assert masks.total() > 0

    def _contents(self, run_id: str) -> Counter[tuple[int, bytes]]:
        found = self.workspace.masks.masks(run_id=run_id)
        return Counter((mask.image_id, mask.rle.counts) for mask in found)


def _plan(workspace: Workspace, run_id: str) -> None:
    start_generate(workspace, run_id, "d", limit=None, only_new=False)
    workspace.catalog.shards.plan(run_id, [list(workspace.catalog.images.ids(1))])


@pytest.fixture
def crew(database_server: DatabaseServer, tmp_path: Path) -> Iterator[Crew]:
    scenes = write_scenes(tmp_path / "scenes", 3)
    root = tmp_path / "ws"
    root.mkdir()
    toml = TOML.replace("lease_seconds = 3.0", f"lease_seconds = {LEASE_SECONDS}")
    (root / FILE_NAME).write_text(f'database_url = "{database_server.migrated()}"\n{toml}')
    workspace = open_workspace(str(root))
    workspace.prepare()
    ingest_folder(workspace, "d", scenes)
    _plan(workspace, "run")
    made = Crew(workspace, tmp_path)
    try:
        yield made
    finally:
        made.dismiss()


def test_a_worker_frozen_past_its_lease_leaves_its_shard_to_the_next(crew: Crew) -> None:
    first, second = crew.hire("masks_made"), crew.hire()
    first.start()
    first.reaches("there")
    first.freeze()
    first.go()
    second.reaches("ready")
    second.start()
    second.ends_well()
    version = crew.workspace.masks.version()
    first.thaw()
    first.ends_well()
    assert crew.workspace.masks.version() == version
    assert "left to another worker" in (first.folder / "log").read_text()
    crew.assert_one_commit(attempts=2)


def test_two_workers_that_commit_one_shard_at_the_same_time_make_one_commit(crew: Crew) -> None:
    first, second = crew.hire("before_commit"), crew.hire("before_commit")
    first.start()
    first.reaches("there")
    first.freeze()  # its lease was good a moment ago; it will not look again
    second.reaches("ready")
    second.start()
    second.reaches("there")
    for worker in (first, second):
        worker.go()
    first.thaw()
    first.ends_well()
    second.ends_well()
    crew.assert_one_commit(attempts=2)


def test_a_worker_killed_between_commit_and_mark_has_committed(crew: Crew) -> None:
    first, second = crew.hire("after_commit"), crew.hire()
    first.start()
    first.reaches("there")
    first.process.kill()
    version = crew.workspace.masks.version()
    second.reaches("ready")
    second.start()
    second.ends_well()
    assert crew.workspace.masks.version() == version
    crew.assert_one_commit(attempts=2)
