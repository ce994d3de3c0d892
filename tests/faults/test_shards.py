"""One shard and several workers, each a real process: under all faults there is one commit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.data.ingest import ingest_folder
from flows.stages.fully_automatic import next_shard
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import open_workspace
from tests.contract.database_fixtures import (
    DatabaseServer,
    database_server_fixture,  # noqa: F401 - a fixture
)
from tests.faults.crew import Crew
from tests.flows.conftest import TOML, write_scenes

pytestmark = pytest.mark.slow

LEASE_SECONDS = 2.0


@pytest.fixture
def crew(database_server: DatabaseServer, tmp_path: Path) -> Iterator[Crew]:
    scenes = write_scenes(tmp_path / "scenes", 3)
    root = tmp_path / "ws"
    root.mkdir()
    toml = TOML.replace("lease_seconds = 3.0", f"lease_seconds = {LEASE_SECONDS}")
    toml = toml.replace("shard_images = 2", "shard_images = 3")
    (root / FILE_NAME).write_text(f'database_url = "{database_server.migrated()}"\n{toml}')
    workspace = open_workspace(str(root))
    workspace.prepare()
    ingest_folder(workspace, "d", scenes)
    made = Crew(workspace, tmp_path)
    made.plan("run")
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
    second.start()
    second.ends_well()
    version = crew.workspace.masks.version()
    first.thaw()
    first.ends_well()
    assert crew.workspace.masks.version() == version
    assert "left to another worker" in first.log()
    _assert_one_commit(crew, attempts=2)


def test_two_workers_that_commit_one_shard_at_the_same_time_make_one_commit(crew: Crew) -> None:
    first, second = crew.hire("before_commit"), crew.hire("before_commit")
    first.start()
    first.reaches("there")
    first.freeze()  # its lease was valid at the last check; it does not check again
    second.start()
    second.reaches("there")
    for worker in (first, second):
        worker.go()
    first.thaw()
    first.ends_well()
    second.ends_well()
    _assert_one_commit(crew, attempts=2)


def test_a_worker_killed_between_commit_and_mark_has_committed(crew: Crew) -> None:
    first, second = crew.hire("after_commit"), crew.hire()
    first.start()
    first.reaches("there")
    first.kill()
    version = crew.workspace.masks.version()
    second.start()
    second.ends_well()
    assert crew.workspace.masks.version() == version
    _assert_one_commit(crew, attempts=2)


def _assert_one_commit(crew: Crew, attempts: int) -> None:
    """Assert that the run's shard had this number of attempts, and the masks of an undisturbed
    run."""
    (shard,) = crew.workspace.catalog.shards.all("run")
    assert shard.attempts == attempts
    crew.plan("undisturbed")
    assert next_shard(crew.workspace, "undisturbed") == 3
    expected = crew.masks("undisturbed")
    assert expected.total() > 0
    crew.assert_undisturbed(expected)
