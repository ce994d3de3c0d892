"""`generate` plans over all images of a dataset, some, or those that are new."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import fully_automatic
from flows.fully_automatic import generate, next_shard, plan_shards, planned_images, start_generate
from flows.ingest import ingest_folder
from flows.wiring import Workspace
from storage.catalog import LeaseLostError, ShardState

pytestmark = pytest.mark.slow


@pytest.fixture
def images(workspace: Workspace, scenes: Path) -> list[int]:
    ingest_folder(workspace, "d", scenes, held_out=0.0)
    return list(workspace.catalog.images.ids(1))


def _planned(workspace: Workspace, run_id: str) -> list[int]:
    return [i for shard in workspace.catalog.shards.all(run_id) for i in shard.image_ids]


@pytest.mark.usefixtures("prefect_server")
def test_a_run_is_for_all_images_a_limit_of_them_or_the_new_ones(
    workspace: Workspace, images: list[int]
) -> None:
    root = str(workspace.settings.root)
    assert generate(root, "some", "d", limit=3)["images"] == 3
    assert _planned(workspace, "some") == images[:3]
    assert generate(root, "new", "d", limit=2, only_new=True)["images"] == 2
    assert _planned(workspace, "new") == images[3:5]


def test_a_run_stopped_before_it_was_planned_goes_on_as_it_was_meant(
    workspace: Workspace, images: list[int]
) -> None:
    start_generate(workspace, "run", "d", limit=5, only_new=False)
    again = start_generate(workspace, "run", "d", limit=None, only_new=False)
    totals = plan_shards(workspace, "run", planned_images(workspace, again))
    assert (totals.images, totals.shards) == (5, 3)
    assert _planned(workspace, "run") == images[:5]


def test_a_shard_that_fails_is_free_again_at_once(
    workspace: Workspace, images: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_generate(workspace, "run", "d", limit=2, only_new=False)
    plan_shards(workspace, "run", images[:2])

    def fails(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(fully_automatic, "work_shard", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        next_shard(workspace, "run")
    (shard,) = workspace.catalog.shards.all("run")
    assert (shard.state, shard.attempts) == (ShardState.OPEN, 1)


def test_a_shard_lost_to_another_worker_is_no_failure(
    workspace: Workspace, images: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_generate(workspace, "run", "d", limit=2, only_new=False)
    plan_shards(workspace, "run", images[:2])

    def lost(*_: object) -> None:
        raise LeaseLostError("another worker has it")

    monkeypatch.setattr(fully_automatic, "work_shard", lost)
    assert next_shard(workspace, "run") == 0
    assert next_shard(workspace, "run") is None  # it is still the other one's
