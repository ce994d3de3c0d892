"""Comments, returned images and agreement in the catalog, on every database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from engine.core.records import Stage
from storage import erasures
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Catalog,
    ConstraintError,
    NewComment,
    NewTask,
    PlannedRound,
    RunKind,
    TaskKind,
)
from storage.catalog.consensus import NewConsensus
from storage.catalog.tables import ErasureRow
from tests.contract.database_fixtures import (
    FakeClock,
    World,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)

COMPLETE = [TaskKind.COMPLETE]


@pytest.fixture
def world(catalog: Catalog) -> World:
    return make_world(catalog, images=2)


def task_of(world: World, **more: object) -> NewTask:
    values = {"kind": COMPLETE[0], "run_id": "run", **more}
    return NewTask(dataset_id=world.dataset.id, image_id=world.image_ids[0], **values)  # type: ignore[arg-type]


def test_a_thread_has_the_comments_of_one_image_in_order(
    catalog: Catalog, world: World, clock: FakeClock
) -> None:
    queue = AnnotationQueue(catalog, clock=clock)
    ada = catalog.annotators.get_or_create("ada").id
    queue.add([task_of(world)])
    (task,) = queue.of_run("run", image_ids=world.image_ids)
    assert not queue.has_worked(ada, task.image_id)
    first = NewComment(
        dataset_id=world.dataset.id,
        image_id=task.image_id,
        task_id=task.id,
        author=ada,
        text="zwei Zeilen\n猫 <b>",
        x=1.5,
        y=0.0,
        mask_id="run/1/0",
    )
    added = catalog.comments.add(first)
    answer = NewComment(
        dataset_id=first.dataset_id,
        image_id=first.image_id,
        task_id=first.task_id,
        author=ada,
        text="no",
    )
    catalog.comments.add(answer)
    thread = catalog.comments.of_image(task.image_id)
    assert thread[0] == added
    assert [(one.text, one.x, one.resolved_at) for one in thread] == [
        (first.text, 1.5, None),
        ("no", None, None),
    ]
    assert catalog.comments.of_image(world.image_ids[1]) == []
    assert catalog.comments.resolve(task.image_id) == 2
    assert catalog.comments.resolve(task.image_id) == 0
    with pytest.raises(ConstraintError):
        catalog.comments.add(
            NewComment(
                dataset_id=first.dataset_id,
                image_id=first.image_id,
                task_id=10**6,
                author=ada,
                text="no such task",
            )
        )
    leased = queue.lease(ada, kinds=COMPLETE)
    assert leased is not None
    assert queue.has_worked(ada, task.image_id)
    assert not queue.worked_since(ada, clock() - timedelta(days=1))
    queue.submit(leased.id, str(leased.lease_id), "key")
    assert queue.worked_since(ada, clock() - timedelta(days=1))
    assert not queue.worked_since(ada, clock() + timedelta(days=1))


def test_tasks_that_wait_for_somebody_are_freed_by_run_or_by_annotator(
    catalog: Catalog, world: World, clock: FakeClock
) -> None:
    queue = AnnotationQueue(catalog, clock=clock)
    ada, bob = (catalog.annotators.get_or_create(name).id for name in ("ada", "bob"))
    queue.add([task_of(world, reserved_for=ada, payload={"return_of": 7})])
    other = task_of(world, kind=TaskKind.ANNOTATE, reserved_for=ada)
    queue.add([other])
    assert queue.reserved() == {ada: 2}
    assert queue.lease(bob, kinds=list(TaskKind)) is None
    assert queue.unreserve_returns("other") == 0
    assert queue.unreserve_returns("run") == 1
    assert queue.reserved() == {ada: 1}
    assert queue.lease(bob, kinds=COMPLETE) is not None
    assert queue.lease(bob, kinds=[TaskKind.ANNOTATE]) is None
    assert queue.unreserve(annotator_id=bob) == 0
    assert queue.unreserve(annotator_id=ada, dataset_id=world.dataset.id + 1) == 0
    assert queue.unreserve(annotator_id=ada, dataset_id=world.dataset.id) == 1
    assert queue.lease(bob, kinds=[TaskKind.ANNOTATE]) is not None


def test_a_gold_task_stays_with_its_annotator_until_it_is_dropped(
    catalog: Catalog, world: World, clock: FakeClock
) -> None:
    queue = AnnotationQueue(catalog, clock=clock)
    ada, bob = (catalog.annotators.get_or_create(name).id for name in ("ada", "bob"))
    catalog.runs.start("gold", RunKind.GOLD, dataset_id=world.dataset.id, model="m")
    queue.add([task_of(world, reserved_for=ada, run_id="gold")])
    assert queue.reserved() == {}
    assert queue.unreserve(annotator_id=ada) == 0
    assert queue.lease(bob, kinds=list(TaskKind)) is None
    assert queue.drop_gold(bob) == 0
    assert queue.drop_gold(ada) == 1
    assert queue.lease(ada, kinds=list(TaskKind)) is None


def test_an_image_that_several_people_annotate_is_reserved_for_nobody(
    catalog: Catalog, world: World, clock: FakeClock
) -> None:
    queue = AnnotationQueue(catalog, clock=clock)
    ada = catalog.annotators.get_or_create("ada").id
    queue.add([task_of(world)])
    (task,) = queue.of_run("run", image_ids=world.image_ids)
    catalog.runs.start("copies", RunKind.SEMI_AUTOMATIC, dataset_id=world.dataset.id, model="m")
    queue.add([task_of(world, run_id="copies", copy_of=task.id)])
    assert queue.reserve(ada, world.dataset.id, kinds=COMPLETE) == 0


def test_tasks_are_reserved_in_the_queues_order_except_reserved_ones(
    catalog: Catalog, world: World, clock: FakeClock
) -> None:
    queue = AnnotationQueue(catalog, clock=clock)
    ada, bob = (catalog.annotators.get_or_create(name).id for name in ("ada", "bob"))
    rows = [
        NewTask(
            dataset_id=world.dataset.id,
            image_id=image_id,
            kind=TaskKind.ANNOTATE,
            run_id=world.run_id,
            priority=priority,
        )
        for priority, image_id in enumerate(world.image_ids)
    ]
    queue.add(rows)
    kinds = [TaskKind.ANNOTATE]
    assert queue.reserve(ada, world.dataset.id, kinds=[TaskKind.REVIEW]) == 0
    assert queue.reserve(ada, world.dataset.id + 1, kinds=kinds) == 0
    assert queue.reserve(ada, world.dataset.id, kinds=kinds, limit=1) == 1
    task = queue.lease(ada, kinds=kinds)
    assert task is not None
    assert (task.image_id, task.reserved_for) == (world.image_ids[-1], ada)  # the highest priority
    first = world.image_ids[0]
    assert queue.reserve(bob, world.dataset.id, kinds=kinds, image_ids=[first, 10**9]) == 1
    left = len(world.image_ids) - 2
    assert queue.reserve(ada, world.dataset.id, kinds=kinds) == left
    assert queue.reserved() == {bob: 1} | ({ada: left} if left else {})


def test_the_catalog_knows_who_is_signed_in_and_whose_name_was_erased(
    catalog: Catalog, clock: FakeClock
) -> None:
    ada, bob = (catalog.annotators.get_or_create(name) for name in ("ada", "bob"))
    catalog.sign_ins.start(ada.id, "hash", 60)
    assert catalog.sign_ins.has(ada.id)
    assert not catalog.sign_ins.has(bob.id)
    found = erasures.of_person(ada)
    row = {"id": found.id, "kind": found.kind, "target": found.target}
    catalog.insert(ErasureRow, [row | {"created_at": catalog.now()}])
    assert catalog.annotators.is_erased(ada.id)
    assert not catalog.annotators.is_erased(bob.id)


def test_an_images_agreement_is_recorded_once(catalog: Catalog, world: World) -> None:
    queue = AnnotationQueue(catalog)
    queue.add([task_of(world)])
    (task,) = queue.of_run("run")
    plan = [PlannedRound(stage=Stage.ASSISTED_MANUAL, images=2)]
    loop = catalog.loops.start_or_resume(world.dataset.id, plan)
    (planned,) = catalog.rounds.for_loop(loop.id)
    for f1 in (0.5, 0.9):
        catalog.consensus.add(
            NewConsensus(
                task_id=task.id,
                dataset_id=world.dataset.id,
                round_id=planned.id,
                people=[1, 2],
                f1=f1,
                iou=0.75,
                review_run="review",
                merged={"run/1/merged-0": ["run/1/0", "copy/1/0"]},
            )
        )
    (row,) = catalog.consensus.by_round(world.dataset.id)
    assert (row.images, row.f1, row.iou, row.reviewed) == (1, 0.5, 0.75, 1)
