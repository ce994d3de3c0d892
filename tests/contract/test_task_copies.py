"""Copies of a task go to other annotators than the task, on every database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from storage.annotation_queue import AnnotationQueue
from storage.catalog import Catalog, NewTask, RunKind, Task, TaskKind, TaskState
from storage.task_copies import TaskCopies
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
def world(catalog: Catalog) -> World:
    return make_world(catalog, images=2)


@pytest.fixture
def queue(catalog: Catalog, clock: FakeClock, world: World) -> AnnotationQueue:
    """Two images in run `run`, the first one with copies in `copy-2` and `copy-3`."""
    queue = AnnotationQueue(catalog, clock=clock)
    first = NewTask(
        dataset_id=world.dataset.id, image_id=world.image_ids[0], kind=KINDS[0], run_id="run"
    )
    queue.add([first, replace(first, image_id=world.image_ids[1])])
    original = queue.of_run("run")[0]
    for number in (2, 3):
        name = f"copy-{number}"
        catalog.runs.start(name, RunKind.ASSISTED_MANUAL, dataset_id=world.dataset.id)
        copy = replace(first, run_id=name, copy_of=original.id)
        queue.add([copy])
        queue.add([copy])
    return queue


@pytest.fixture
def people(catalog: Catalog) -> list[int]:
    return [catalog.annotators.get_or_create(name).id for name in ("ada", "bob", "cleo")]


def taken(queue: AnnotationQueue, who: int) -> Task | None:
    return queue.lease(who, kinds=KINDS)


def submitted(queue: AnnotationQueue, who: int) -> Task:
    task = taken(queue, who)
    assert task is not None
    return queue.submit(task.id, str(task.lease_id), f"by-{who}")


def test_nobody_gets_two_copies_of_an_image(queue: AnnotationQueue, people: list[int]) -> None:
    ada, bob, cleo = people
    assert [submitted(queue, ada).run_id for _ in range(2)] == ["run", "run"]
    assert taken(queue, ada) is None
    held = taken(queue, bob)
    assert held is not None
    assert held.run_id == "copy-2"
    assert taken(queue, bob) is None, "while he holds one"
    queue.release(held.id, str(held.lease_id))
    assert submitted(queue, bob).run_id == "copy-2"
    assert submitted(queue, cleo).run_id == "copy-3"
    assert queue.pending("run") == 0


def test_two_leases_at_once_do_not_get_two_copies(
    queue: AnnotationQueue, people: list[int]
) -> None:
    taken(queue, people[1])  # the one without copies is not in the way
    taken(queue, people[1])
    start = Barrier(4)

    def take(_: int) -> Task | None:
        start.wait()
        return taken(queue, people[0])

    with ThreadPoolExecutor(4) as pool:
        found = [task for task in pool.map(take, range(4)) if task is not None]
    assert len(found) == 1


def test_copies_that_nobody_may_answer_leave_the_queue_once_nothing_else_is_left(
    catalog: Catalog, queue: AnnotationQueue, people: list[int]
) -> None:
    ada, bob, _ = people
    copies = TaskCopies(catalog)
    assert copies.pending("run") == 4
    assert copies.runs("run") == ["copy-2", "copy-3"]
    assert copies.withdraw("run", []) == 0, "without an answer it would be lost"
    submitted(queue, ada)
    assert copies.withdraw("run", [ada]) == 0, "another image waits"
    submitted(queue, ada)
    assert copies.withdraw("run", [ada, bob]) == 0
    submitted(queue, bob)
    assert copies.withdraw("run", people) == 0, "cleo can answer"
    assert copies.withdraw("run", [ada, bob]) == 1
    assert copies.pending("run") == 0
    (group,) = copies.groups("run")
    states = [task.state for task in group]
    assert states == [TaskState.SUBMITTED, TaskState.SUBMITTED, TaskState.SKIPPED]


def test_an_unanswered_task_takes_over_the_answer_of_its_copy(
    catalog: Catalog, queue: AnnotationQueue, people: list[int]
) -> None:
    ada, bob, _ = people
    held = taken(queue, ada)
    assert held is not None
    for _ in range(2):
        submitted(queue, bob)
    copies = TaskCopies(catalog)
    queue.skip(held.id, str(held.lease_id))
    assert copies.withdraw("run", [bob]) == 2
    for _ in range(2):
        copies.complete("run")
    (group,) = copies.groups("run")
    assert [task.state for task in group] == [TaskState.SUBMITTED, *[TaskState.SKIPPED] * 2]
    assert (group[0].result_key, group[0].annotator_id) == (f"by-{bob}", bob)
    assert [task.id for task in queue.submitted("copy-2")] == []
