"""The annotation queue leases every task to one annotator at a time, on every database."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC
from threading import Barrier

import pytest

from storage import annotation_queue
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Catalog,
    ConstraintError,
    LeaseLostError,
    NewTask,
    RunKind,
    StaleStateError,
    Task,
    TaskKind,
    TaskNotFoundError,
    TaskResult,
    TaskState,
    tasks,
)
from storage.finished_tasks import FinishedTasks
from tests.contract.database_fixtures import (
    FakeClock,
    World,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)


@pytest.fixture
def world(catalog: Catalog) -> World:
    return make_world(catalog, images=40)


@pytest.fixture
def queue(catalog: Catalog, clock: FakeClock) -> AnnotationQueue:
    return AnnotationQueue(catalog, clock=clock)


@pytest.fixture
def finished(catalog: Catalog, clock: FakeClock) -> FinishedTasks:
    return FinishedTasks(catalog, clock)


@pytest.fixture
def ada(catalog: Catalog) -> int:
    return catalog.annotators.get_or_create("ada").id


@pytest.fixture
def bob(catalog: Catalog) -> int:
    return catalog.annotators.get_or_create("bob").id


def tasks_for(
    world: World,
    images: int,
    *,
    kind: TaskKind = TaskKind.ANNOTATE,
    run_id: str = "run",
    priority: int = 0,
) -> list[NewTask]:
    return [
        NewTask(
            dataset_id=world.dataset.id,
            image_id=image_id,
            kind=kind,
            run_id=run_id,
            priority=priority,
            payload={"image": image_id},
        )
        for image_id in world.image_ids[:images]
    ]


def take(
    queue: AnnotationQueue,
    annotator_id: int,
    kinds: Iterable[TaskKind] = (TaskKind.ANNOTATE,),
    seconds: float = 600,
) -> tuple[Task, str]:
    """Lease a task, which must exist, and return it with the lease's id."""
    task = queue.lease(annotator_id, kinds=list(kinds), seconds=seconds)
    assert task is not None
    assert task.lease_id is not None
    return task, task.lease_id


def test_adding_the_same_tasks_twice_adds_them_once(queue: AnnotationQueue, world: World) -> None:
    assert queue.add(tasks_for(world, 3)) == 3
    assert queue.add(tasks_for(world, 4)) == 1
    assert queue.add(tasks_for(world, 1, kind=TaskKind.REVIEW)) == 1
    assert queue.counts()[TaskState.OPEN] == 5


def test_a_task_of_an_unknown_run_is_refused(queue: AnnotationQueue, world: World) -> None:
    with pytest.raises(ConstraintError):
        queue.add(tasks_for(world, 1, run_id="unknown"))


def test_the_highest_priority_comes_first_and_then_the_first_in(
    queue: AnnotationQueue, world: World, catalog: Catalog, ada: int
) -> None:
    catalog.runs.start("urgent", RunKind.ASSISTED_MANUAL, dataset_id=world.dataset.id)
    queue.add(tasks_for(world, 2))
    queue.add(tasks_for(world, 2, run_id="urgent", priority=5))
    taken = [take(queue, ada)[0] for _ in range(4)]
    assert [(task.run_id, task.image_id) for task in taken] == [
        *(("urgent", image_id) for image_id in world.image_ids[:2]),
        *(("run", image_id) for image_id in world.image_ids[:2]),
    ]
    assert queue.lease(ada, kinds=[TaskKind.ANNOTATE]) is None


def test_a_reserved_task_comes_first_to_its_annotator_and_to_nobody_else(
    queue: AnnotationQueue, world: World, ada: int, bob: int
) -> None:
    common, kept = tasks_for(world, 2)
    queue.add([common, replace(kept, reserved_for=bob)])
    assert take(queue, ada)[0].image_id == common.image_id
    assert queue.lease(ada, kinds=[TaskKind.ANNOTATE]) is None
    task, lease = take(queue, bob)
    assert task.image_id == kept.image_id
    queue.release(task.id, lease)
    assert queue.lease(ada, kinds=[TaskKind.ANNOTATE]) is None
    assert take(queue, bob)[0].id == task.id


def test_a_lease_is_limited_to_what_was_asked_for(
    queue: AnnotationQueue, world: World, catalog: Catalog, ada: int
) -> None:
    other = catalog.datasets.get_or_create("cats").id
    queue.add(tasks_for(world, 1))
    every = list(TaskKind)
    assert queue.lease(ada, kinds=[TaskKind.REVIEW]) is None
    assert queue.lease(ada, kinds=every, dataset_ids=[other]) is None
    assert queue.lease(ada, kinds=every, run_id="other") is None
    task = queue.lease(ada, kinds=every, run_id="run", dataset_ids=[world.dataset.id])
    assert task is not None
    assert task.payload == {"image": world.image_ids[0]}
    with pytest.raises(ValueError, match="kinds"):
        queue.lease(ada, kinds=[])
    with pytest.raises(ValueError, match="time"):
        queue.lease(ada, kinds=every, seconds=0)


def test_eight_threads_lease_forty_tasks_each_exactly_once(
    queue: AnnotationQueue, world: World, catalog: Catalog
) -> None:
    queue.add(tasks_for(world, 40))
    people = [catalog.annotators.get_or_create(f"person {number}").id for number in range(8)]
    barrier = Barrier(8)

    def work(annotator_id: int) -> list[tuple[int, int]]:
        barrier.wait()
        taken = []
        while task := queue.lease(annotator_id, kinds=[TaskKind.ANNOTATE]):
            assert task.annotator_id == annotator_id
            taken.append((task.id, annotator_id))
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [task for tasks in pool.map(work, people) for task in tasks]
    assert len(taken) == len({task_id for task_id, _ in taken}) == 40
    assert {task_id: queue.get(task_id).annotator_id for task_id, _ in taken} == dict(taken)


def test_threads_race_for_the_same_expired_task_and_one_gets_it(
    queue: AnnotationQueue, world: World, clock: FakeClock, ada: int, bob: int
) -> None:
    queue.add(tasks_for(world, 1))
    take(queue, ada, seconds=10)
    clock.advance(10)
    barrier = Barrier(2)

    def lease(_: int) -> Task | None:
        barrier.wait()
        return queue.lease(bob, kinds=[TaskKind.ANNOTATE])

    with ThreadPoolExecutor(2) as pool:
        assert len([task for task in pool.map(lease, range(2)) if task is not None]) == 1


def test_an_expired_task_goes_to_the_next_and_the_first_lease_is_lost(
    queue: AnnotationQueue, world: World, clock: FakeClock, ada: int, bob: int
) -> None:
    queue.add(tasks_for(world, 1))
    task, first = take(queue, ada, seconds=60)
    clock.advance(59)
    assert queue.lease(bob, kinds=[TaskKind.ANNOTATE]) is None
    clock.advance(1)
    again, second = take(queue, bob, seconds=60)
    assert (again.id, again.attempts, again.annotator_id) == (task.id, 2, bob)
    with pytest.raises(LeaseLostError):
        queue.submit(task.id, first, "results/ada")
    for change in (queue.renew, queue.skip, queue.release):
        with pytest.raises(LeaseLostError):
            change(task.id, first)
    assert queue.submit(task.id, second, "results/bob").annotator_id == bob
    with pytest.raises(LeaseLostError):
        queue.submit(task.id, first, "results/bob")


def test_late_work_counts_while_nobody_else_has_begun(
    queue: AnnotationQueue, world: World, clock: FakeClock, ada: int
) -> None:
    queue.add(tasks_for(world, 2))
    (one, first), (two, second) = take(queue, ada), take(queue, ada)
    clock.advance(601)
    assert queue.expire() == 2
    assert queue.expire() == 0
    assert queue.submit(one.id, first, "results/1").state == TaskState.SUBMITTED
    queue.renew(two.id, second)
    assert queue.get(two.id).state == TaskState.LEASED


def test_a_renewed_lease_holds_longer(
    queue: AnnotationQueue, world: World, clock: FakeClock, ada: int, bob: int
) -> None:
    queue.add(tasks_for(world, 1))
    task, lease_id = take(queue, ada, seconds=60)
    clock.advance(50)
    expires = queue.renew(task.id, lease_id, 60)
    assert queue.get(task.id).lease_expires_at == expires
    clock.advance(59)
    assert queue.lease(bob, kinds=[TaskKind.ANNOTATE]) is None


def test_submitting_twice_keeps_the_first_result(
    queue: AnnotationQueue, world: World, clock: FakeClock, ada: int
) -> None:
    queue.add(tasks_for(world, 1))
    task, lease_id = take(queue, ada)
    first = queue.submit(task.id, lease_id, "results/1", TaskResult(made=3))
    clock.advance(5)
    assert queue.submit(task.id, lease_id, "results/1", TaskResult(made=9)) == first
    with pytest.raises(LeaseLostError):
        queue.submit(task.id, lease_id, "results/2")
    with pytest.raises(LeaseLostError):
        queue.renew(task.id, lease_id)
    stored = queue.get(task.id)
    assert (stored.result_key, stored.result, stored.annotator_id) == (
        "results/1",
        TaskResult(made=3),
        ada,
    )


def test_a_skipped_task_waits_behind_all_others_and_leaves_after_three_people_skipped_it(
    queue: AnnotationQueue, world: World, catalog: Catalog, ada: int, bob: int
) -> None:
    eve = catalog.annotators.get_or_create("eve").id
    catalog.runs.start("urgent", RunKind.ASSISTED_MANUAL, dataset_id=world.dataset.id)
    queue.add(tasks_for(world, 1, run_id="urgent", priority=5))
    queue.add(tasks_for(world, 2))
    urgent, lease_id = take(queue, ada)
    assert queue.skip(urgent.id, lease_id) == TaskState.OPEN
    assert [take(queue, ada)[0].run_id for _ in range(2)] == ["run", "run"]
    for person in (ada, ada, bob, ada, bob):  # always the same two
        again, lease_id = take(queue, person)
        assert again.id == urgent.id
        assert queue.skip(again.id, lease_id) == TaskState.OPEN
    again, lease_id = take(queue, eve)
    assert queue.skip(again.id, lease_id) == TaskState.SKIPPED
    assert queue.lease(ada, kinds=[TaskKind.ANNOTATE]) is None
    assert queue.pending("urgent") == 0


def test_requeued_are_skipped_and_quarantined_tasks_and_no_others(
    catalog: Catalog, world: World, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_queue, "MAX_SKIPS", 1)
    queue = AnnotationQueue(catalog)
    catalog.runs.start("over", RunKind.ASSISTED_MANUAL, dataset_id=world.dataset.id)
    queue.add(tasks_for(world, 1, run_id="over"))
    queue.add(tasks_for(world, 5))
    queue.skip(*_ids(take(queue, ada)))
    catalog.runs.finish("over")
    skipped, broken, committed, answered, _ = (take(queue, ada) for _ in range(5))
    queue.skip(*_ids(skipped))
    queue.submit(*_ids(committed), "a", TaskResult(quarantined="no image"))
    queue.assign_shards("run", 20)
    queue.submit(*_ids(broken), "b", TaskResult(quarantined="no image"))
    queue.submit(*_ids(answered), "c", TaskResult(made=2))
    assert [queue.requeue(world.dataset.id) for _ in range(2)] == [2, 0]
    assert {take(queue, ada)[0].id for _ in range(2)} == {skipped[0].id, broken[0].id}
    assert queue.get(broken[0].id).result == TaskResult()


def _ids(taken: tuple[Task, str]) -> tuple[int, str]:
    return taken[0].id, taken[1]


def test_an_answer_stays_in_its_shard_whatever_size_shards_have_later(
    queue: AnnotationQueue, world: World, ada: int
) -> None:
    queue.add(tasks_for(world, 7))
    for size, answered in ((2, 5), (3, 0), (1, 2)):
        for _ in range(answered):
            queue.submit(*_ids(take(queue, ada)), "key")
        queue.assign_shards("run", size)
    assert [task.shard for task in queue.submitted("run")] == [0, 0, 1, 1, 2, 3, 4]


def test_a_released_task_keeps_its_place(queue: AnnotationQueue, world: World, ada: int) -> None:
    queue.add(tasks_for(world, 2))
    task, lease_id = take(queue, ada)
    queue.release(task.id, lease_id)
    assert queue.get(task.id).annotator_id is None
    with pytest.raises(LeaseLostError):
        queue.submit(task.id, lease_id)
    assert take(queue, ada)[0].id == task.id


def test_an_unknown_task_is_not_a_lost_lease(queue: AnnotationQueue) -> None:
    for call in (queue.submit, queue.renew, queue.skip, queue.release):
        with pytest.raises(TaskNotFoundError):
            call(10**6, "lease")
    with pytest.raises(TaskNotFoundError):
        queue.get(10**6)


def test_an_unknown_annotator_cannot_lease(queue: AnnotationQueue, world: World) -> None:
    queue.add(tasks_for(world, 1))
    with pytest.raises(ConstraintError):
        queue.lease(10**6, kinds=[TaskKind.ANNOTATE])
    assert queue.pending("run") == 1


def test_submitted_tasks_are_read_in_pages_and_pending_ones_counted(
    queue: AnnotationQueue, world: World, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "PAGE", 2)
    queue.add(tasks_for(world, 6))
    for number in range(4):
        task, lease_id = take(queue, ada)
        queue.submit(task.id, lease_id, f"results/{number}")
    take(queue, ada)
    keys = [task.result_key for task in queue.submitted("run")]
    assert keys == [f"results/{number}" for number in range(4)]
    assert queue.pending("run") == 2
    assert queue.counts(run_id="run") == {
        TaskState.OPEN: 1,
        TaskState.LEASED: 1,
        TaskState.SUBMITTED: 4,
        TaskState.SKIPPED: 0,
    }
    assert queue.counts(run_id="other")[TaskState.SUBMITTED] == 0


def test_the_times_of_a_task_come_back_in_utc(
    queue: AnnotationQueue, world: World, clock: FakeClock, ada: int
) -> None:
    queue.add(tasks_for(world, 1))
    task, _ = take(queue, ada)
    for time in (task.created_at, task.leased_at, task.lease_expires_at):
        assert time is not None
        assert time.tzinfo is UTC
    assert task.leased_at == clock()


def test_a_submitted_task_is_reopened_by_its_annotator_while_others_are_open(
    world: World,
    queue: AnnotationQueue,
    finished: FinishedTasks,
    ada: int,
    bob: int,
    clock: FakeClock,
) -> None:
    queue.add(tasks_for(world, 3))
    task = take(queue, ada)[0]
    queue.submit(task.id, str(task.lease_id), "annotations/a", TaskResult(made=2))
    assert finished.reopenable(ada, [task.id, task.id + 1]) == {task.id}
    assert finished.reopenable(bob, [task.id]) == set()
    for task_id, person in ((task.id, bob), (task.id + 1, ada), (2**40, ada)):
        with pytest.raises(StaleStateError):
            finished.reopen(task_id, person)
    again = finished.reopen(task.id, ada, 60)
    assert (again.state, again.annotator_id, again.result.made) == (TaskState.LEASED, ada, 2)
    with pytest.raises(LeaseLostError):
        queue.submit(task.id, str(task.lease_id), "annotations/b")
    with pytest.raises(StaleStateError):
        finished.reopen(task.id, ada)
    queue.submit(task.id, str(again.lease_id), "annotations/b", TaskResult(made=3))
    assert queue.get(task.id).result_key == "annotations/b"
    for give_back in (queue.release, queue.skip):
        again = finished.reopen(task.id, ada, 60)
        assert give_back(task.id, str(again.lease_id)) == TaskState.SUBMITTED
    again = finished.reopen(task.id, ada, 60)
    clock.advance(61)
    assert queue.expire() == 1
    found = queue.get(task.id)
    assert (found.state, found.result_key, found.result.made, found.annotator_id) == (
        TaskState.SUBMITTED,
        "annotations/b",
        3,
        ada,
    )
    with pytest.raises(LeaseLostError):
        queue.submit(task.id, str(again.lease_id), "annotations/c")
    assert finished.page(ada)[0] == 1
    for _ in range(2):
        other = take(queue, bob)[0]
        queue.submit(other.id, str(other.lease_id), "annotations/d")
    assert finished.reopenable(ada, [task.id]) == set()
    with pytest.raises(StaleStateError):  # nothing is left: the answers may be committed now
        finished.reopen(task.id, ada)


def test_a_task_of_a_committed_shard_stays_submitted(
    world: World, queue: AnnotationQueue, finished: FinishedTasks, ada: int
) -> None:
    queue.add(tasks_for(world, 2))
    task = take(queue, ada)[0]
    queue.submit(task.id, str(task.lease_id), "annotations/a")
    queue.assign_shards(str(task.run_id), 10)
    with pytest.raises(StaleStateError):
        finished.reopen(task.id, ada)


@pytest.mark.slow
def test_nobody_reopens_a_task_while_the_last_one_is_submitted(
    world: World, queue: AnnotationQueue, finished: FinishedTasks, ada: int, bob: int
) -> None:
    """Either the run has a task left, or none was reopened."""
    queue.add(tasks_for(world, 2))
    mine = take(queue, ada)[0]
    queue.submit(mine.id, str(mine.lease_id), "annotations/a")
    last = take(queue, bob)[0]
    barrier = Barrier(2)

    def submit() -> int:
        barrier.wait()
        queue.submit(last.id, str(last.lease_id), "annotations/b")
        return queue.pending(str(last.run_id))

    def reopen() -> bool:
        barrier.wait()
        try:
            finished.reopen(mine.id, ada)
            return True
        except StaleStateError:
            return False

    with ThreadPoolExecutor(2) as pool:
        submitted, reopened = pool.submit(submit), pool.submit(reopen)
        assert (submitted.result() > 0) == reopened.result()


def test_a_task_that_several_people_answer_is_not_reopened(
    catalog: Catalog, world: World, queue: AnnotationQueue, finished: FinishedTasks, ada: int
) -> None:
    queue.add(tasks_for(world, 2))
    task, lease_id = take(queue, ada)
    queue.submit(task.id, lease_id, "annotations/a")
    assert finished.reopenable(ada, [task.id]) == {task.id}
    catalog.runs.start("copies", RunKind.ASSISTED_MANUAL, dataset_id=world.dataset.id)
    (one,) = tasks_for(world, 1, run_id="copies")
    queue.add([replace(one, copy_of=task.id)])
    assert finished.reopenable(ada, [task.id]) == set()
    with pytest.raises(StaleStateError):
        finished.reopen(task.id, ada)
