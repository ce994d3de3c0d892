"""`generate` plans all images of a dataset, some, or new ones, and resumes stopped runs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.data.ingest import ingest_folder
from flows.prefect_api import temporary_server
from flows.stages import fully_automatic
from flows.stages.fully_automatic import (
    generate,
    images_since,
    next_shard,
    planned_images,
    start_generate,
    unfinished_generate,
)
from flows.stages.shards import plan_shards
from flows.workspace.workspace import Workspace
from storage.catalog import LeaseLostError, RunKind, RunState, ShardState

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
    assert next_shard(workspace, "run") is None  # another worker still has it


def test_only_the_last_run_of_the_same_command_is_gone_on_with(
    workspace: Workspace, images: list[int]
) -> None:
    runs = workspace.catalog.runs

    def found(limit: int | None = None, only_new: bool = False) -> str | None:
        run = unfinished_generate(workspace, "d", limit=limit, only_new=only_new)
        return None if run is None else run.id

    assert found() is None
    start_generate(workspace, "a", "d", limit=None, only_new=False)
    start_generate(workspace, "few", "d", limit=2, only_new=False)
    runs.fail("few", "stopped")
    assert (found(), found(limit=2)) == ("a", "few")  # in both states, running and failed
    assert (found(limit=3), found(only_new=True)) == (None, None)
    start_generate(workspace, "b", "d", limit=None, only_new=False)
    runs.finish("b", {})
    assert found() is None  # the images now have masks of b
    config = {**runs.get("a").config, "points_per_side": 5}
    kind = RunKind.FULLY_AUTOMATIC
    runs.start("other settings", kind, dataset_id=1, model="lite", config=config)
    runs.start("other model", kind, dataset_id=1, model="x", config=runs.get("a").config)
    assert found() is None


def test_images_that_come_in_between_stop_and_resume_are_counted(
    workspace: Workspace, images: list[int]
) -> None:
    run = start_generate(workspace, "run", "d", limit=None, only_new=False)
    assert images_since(workspace, run) == 0  # it has no plan yet, and will get one for all images
    plan_shards(workspace, "run", images[:-2])
    assert images_since(workspace, run) == 2
    few = start_generate(workspace, "few", "d", limit=2, only_new=False)
    plan_shards(workspace, "few", images[:2])
    assert images_since(workspace, few) == 0


@pytest.mark.usefixtures("prefect_server")
def test_the_same_command_after_ctrl_c_goes_on_and_makes_no_mask_twice(
    workspace: Workspace, images: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.settings.root)
    monkeypatch.setattr(temporary_server, "server", lambda _: contextlib.nullcontext())
    work, worked = fully_automatic.work_shard, 0

    def stopped_at_the_second(*given: Any) -> None:
        nonlocal worked
        worked += 1
        if worked == 2:
            raise KeyboardInterrupt
        work(*given)

    monkeypatch.setattr(fully_automatic, "work_shard", stopped_at_the_second)
    command = ["generate", "--dataset", "d", "--limit", "4"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 130
    assert "the same command resumes it" in first.stderr
    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0, second.output
    assert "2 of 4 images" in second.stderr

    assert {run.state for run in workspace.catalog.runs.all(kind=RunKind.FULLY_AUTOMATIC)} == {
        RunState.FINISHED
    }
    made_by: dict[object, set[object]] = {}
    for image, run in workspace.masks.counts(("image_id", "run_id")):
        made_by.setdefault(image, set()).add(run)
    assert set(made_by) <= set(images[:4])
    assert {len(runs) for runs in made_by.values()} == {1}
