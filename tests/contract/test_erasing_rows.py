"""Erasing deletes the right rows and no others, on every database."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Catalog,
    NewTask,
    NewVerdict,
    NotFoundError,
    TaskKind,
    TaskResult,
    VerdictKind,
)
from storage.catalog.erasing import (
    busy_with,
    forget_dataset,
    forget_images,
    forget_person,
    rename_results,
    shrink,
)
from storage.catalog.tables import TaskRow, VerdictRow
from tests.contract.database_fixtures import (
    World,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)


def _work(catalog: Catalog, queue: AnnotationQueue) -> tuple[World, int]:
    """Two images whose tasks ada has submitted, with verdicts, and a shard of both."""
    world = make_world(catalog, images=2)
    queue.add(
        [
            NewTask(dataset_id=world.dataset.id, image_id=i, kind=TaskKind.ANNOTATE, run_id="run")
            for i in world.image_ids
        ]
    )
    ada = catalog.annotators.get_or_create("ada")
    while task := queue.lease(ada.id, kinds=[TaskKind.ANNOTATE]):
        held = busy_with(catalog, dataset_id=world.dataset.id)
        assert held == [f"task {task.id}"]
        catalog.drafts.keep(task.id, ada.id, 1, {})
        steps = TaskResult(trajectories=f"t/{task.id}")
        queue.submit(task.id, str(task.lease_id), f"a/{task.id}", steps)
        made = NewVerdict(
            mask_id=f"m{task.id}",
            task_id=task.id,
            verdict=VerdictKind.REJECT,
            annotator_id=ada.id,
            seconds=1.0,
            reason="ada says so; adam does not",
        )
        catalog.verdicts.add_many([made])
    catalog.shards.plan("run", [world.image_ids])
    catalog.audit.add("annotator_added", "ada", detail={"by": ["ada", "x ada."], "n": 1})
    return world, ada.id


def test_rows_of_an_image_a_person_and_a_dataset_go(catalog: Catalog) -> None:
    queue = AnnotationQueue(catalog)
    world, ada = _work(catalog, queue)
    gone, left = world.image_ids
    catalog.releases.start("r", dataset_id=world.dataset.id, table_version=1, key="releases/r")

    forget_images(catalog, [gone], ["r"], [])
    forget_images(catalog, [gone], ["r"], [])  # repeated, without effect
    assert list(catalog.images.ids(world.dataset.id)) == [left]
    (task,) = queue.submitted("run")
    assert task.image_id == left
    shard = catalog.shards.lease("run", "me", 60)
    assert shard is not None
    assert shard.image_ids == [left]
    assert busy_with(catalog, dataset_id=world.dataset.id, image_ids=[left]) == ["run run"]
    assert catalog.releases.get("r").card["erased"]["images"] == 1

    rename_results(catalog, {f"a/{task.id}": "a/new", f"t/{task.id}": "t/new"})
    (task,) = queue.submitted("run")
    assert (task.result_key, task.result.trajectories) == ("a/new", "t/new")

    forget_person(catalog, ada, "ada", "erased-1")
    assert catalog.annotators.get(ada).name == "erased-1"
    entry = catalog.audit.latest(1)[0]
    assert entry.subject == "erased-1"
    assert entry.detail == {"detail": {"by": ["erased-1", "x erased-1."], "n": 1}}
    with catalog.reading() as session:
        assert session.scalar(select(VerdictRow.reason)) == "erased-1 says so; adam does not"

    forget_dataset(catalog, world.dataset.id, world.dataset.name)
    shrink(catalog.engine)
    with pytest.raises(NotFoundError):
        catalog.datasets.get(world.dataset.name)
    with catalog.reading() as session:
        assert session.scalar(select(func.count()).select_from(TaskRow)) == 0
    assert catalog.annotators.get(ada).name == "erased-1"
