"""Gold tasks take the place of others, and their rows go with an erasure, on every database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    GOLD,
    Catalog,
    ConstraintError,
    NewGoldScore,
    NewTask,
    RunKind,
    TaskKind,
    TaskState,
)
from storage.catalog.erasing import forget_dataset, forget_images, forget_person
from tests.contract.database_fixtures import (
    FakeClock,
    World,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)

KINDS = [TaskKind.ANNOTATE]


@pytest.fixture
def queue(catalog: Catalog, clock: FakeClock) -> AnnotationQueue:
    return AnnotationQueue(catalog, clock=clock)


@pytest.fixture
def world(catalog: Catalog, queue: AnnotationQueue) -> World:
    """Three ordinary tasks; the last two images are gold."""
    made = make_world(catalog, images=5)
    first = new_task(made, 0)
    queue.add([replace(first, image_id=image_id) for image_id in made.image_ids[:3]])
    assert catalog.gold.mark(made.dataset.id, made.image_ids[3:]) == 2
    assert catalog.gold.mark(made.dataset.id, made.image_ids[3:]) == 0
    catalog.runs.start("gold", RunKind.GOLD, dataset_id=made.dataset.id)
    return made


def new_task(world: World, number: int) -> NewTask:
    image_id, dataset_id = world.image_ids[number], world.dataset.id
    return NewTask(
        dataset_id=dataset_id, image_id=image_id, kind=TaskKind.ANNOTATE, run_id=world.run_id
    )


def gold_task(world: World, number: int, annotator_id: int) -> NewTask:
    task = new_task(world, number)
    return replace(task, run_id="gold", reserved_for=annotator_id, payload={GOLD: {"run": "run"}})


def test_an_exchanged_task_keeps_its_id_and_the_other_one_is_done_later(
    catalog: Catalog, queue: AnnotationQueue, world: World
) -> None:
    ada, bob = (catalog.annotators.get_or_create(name).id for name in ("ada", "bob"))
    first = queue.next_fresh(ada, kinds=KINDS)
    assert first is not None
    assert queue.exchange(first.id, gold_task(world, 3, ada))
    assert not queue.exchange(first.id, gold_task(world, 4, ada))  # it is reserved now
    assert not queue.exchange(999, gold_task(world, 4, ada))
    assert queue.next_fresh(ada, kinds=KINDS) is None  # the reserved one comes first
    other = queue.next_fresh(bob, kinds=KINDS)
    assert other is not None
    assert other.id != first.id
    with pytest.raises(ConstraintError):
        queue.exchange(other.id, gold_task(world, 3, bob))
    assert queue.by_kind()[TaskKind.ANNOTATE]["open"] == 3  # nobody else could take the fourth
    got = queue.lease(ada, kinds=KINDS)
    assert got is not None
    assert (got.id, got.image_id, got.run_id) == (first.id, world.image_ids[3], "gold")
    queue.submit(got.id, str(got.lease_id), "key")
    images = []
    while task := queue.lease(bob, kinds=KINDS):
        images.append(task.image_id)
        assert not queue.exchange(task.id, gold_task(world, 4, bob))  # it is taken
        queue.submit(task.id, str(task.lease_id), "key")
    assert images == [world.image_ids[n] for n in (1, 2, 0)]
    assert queue.counts(run_id=world.run_id)[TaskState.SUBMITTED] == 3
    assert catalog.gold.place(ada, world.dataset.id) == 1
    assert catalog.gold.known_images(ada, world.dataset.id) == {world.image_ids[3]}
    work = queue.by_annotator()
    assert (work[ada].tasks, work[bob].tasks) == (0, 3)


def test_gold_rows_go_with_their_image_their_person_and_their_dataset(
    catalog: Catalog, queue: AnnotationQueue, world: World
) -> None:
    ada = catalog.annotators.get_or_create("ada").id
    for number in (3, 4):
        first = queue.next_fresh(ada, kinds=KINDS)
        assert first is not None
        assert queue.exchange(first.id, gold_task(world, number, ada))
        if number == 3:
            task = queue.lease(ada, kinds=KINDS)
            assert task is not None
            queue.submit(task.id, str(task.lease_id), "key")
            score = NewGoldScore(
                task_id=task.id,
                annotator_id=ada,
                dataset_id=world.dataset.id,
                image_id=task.image_id,
                truths=3,
                found_50=2,
                found_75=1,
                extra=0,
                iou=0.8,
                boundary_f=None,
            )
            catalog.gold.add_score(score)
            catalog.gold.add_score(replace(score, found_50=3))
    (stored,) = catalog.gold.scores()
    assert (stored.found_50, stored.iou) == (2, 0.8)
    forget_person(catalog, ada, "ada", "someone")
    assert queue.counts(run_id="gold")[TaskState.SKIPPED] == 1  # else it would be anybody's
    forget_images(catalog, [world.image_ids[3]], [], [])
    assert catalog.gold.scores() == []
    assert catalog.gold.image_ids(world.dataset.id) == [world.image_ids[4]]
    forget_dataset(catalog, world.dataset.id, "birds")
    assert catalog.gold.image_ids(world.dataset.id) == []
