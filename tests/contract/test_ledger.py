"""Sums for the cost ledger and the metrics, on every database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    AnnotatorKind,
    Catalog,
    NewTask,
    NewVerdict,
    RunKind,
    RunState,
    ShardState,
    TaskKind,
    TaskResult,
    TaskState,
    VerdictKind,
)
from storage.catalog.ledger import RunSums
from tests.contract.database_fixtures import (
    FakeClock,
    World,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)


def _tasks(catalog: Catalog, world: World, kind: TaskKind, run_id: str, count: int) -> None:
    AnnotationQueue(catalog, clock=catalog.now).add(
        [
            NewTask(dataset_id=world.dataset.id, image_id=image, kind=kind, run_id=run_id)
            for image in world.image_ids[:count]
        ]
    )


def test_people_and_machines_are_told_apart_by_run(catalog: Catalog) -> None:
    world = make_world(catalog)
    queue = AnnotationQueue(catalog, clock=catalog.now)
    ada = catalog.annotators.get_or_create("ada")
    simulated = catalog.annotators.get_or_create("sim", kind=AnnotatorKind.SIMULATED)
    _tasks(catalog, world, TaskKind.ANNOTATE, "run", 3)
    for person, result in (
        (ada, TaskResult(made=2, prefilled_kept=1, seconds=12.5)),
        (simulated, TaskResult(made=4, seconds=7.25)),
    ):
        task = queue.lease(person.id, kinds=[TaskKind.ANNOTATE])
        assert task is not None
        queue.submit(task.id, str(task.lease_id), "key", result)
    catalog.runs.start("auto", RunKind.FULLY_AUTOMATIC, dataset_id=world.dataset.id)
    catalog.shards.plan("auto", [world.image_ids[:3], world.image_ids[3:5]])
    shard = catalog.shards.lease("auto", "me", 60)
    assert shard is not None
    catalog.shards.commit(
        "auto", shard.shard, str(shard.lease_id), masks=30, table_version=1, seconds=4.5
    )
    found = catalog.ledger.by_run()
    assert found["run"] == RunSums(
        tasks=2, task_masks=7, people_seconds=12.5, simulated_seconds=7.25
    )
    assert found["auto"] == RunSums(shard_images=3, shard_masks=30, machine_seconds=4.5)


def test_the_latest_verdict_on_a_mask_counts_for_the_run_that_made_it(catalog: Catalog) -> None:
    world = make_world(catalog)
    rita = catalog.annotators.get_or_create("rita", role="reviewer")
    catalog.runs.start("review", RunKind.REVIEW, dataset_id=world.dataset.id)
    _tasks(catalog, world, TaskKind.REVIEW, "review", 2)
    queue = AnnotationQueue(catalog, clock=catalog.now)
    tasks = [queue.lease(rita.id, kinds=[TaskKind.REVIEW]) for _ in range(2)]

    def say(number: int, mask_id: str, kind: VerdictKind, fixed: str | None = None) -> None:
        task = tasks[number]
        assert task is not None
        catalog.verdicts.add_many(
            [
                NewVerdict(
                    mask_id=mask_id,
                    task_id=task.id,
                    verdict=kind,
                    annotator_id=rita.id,
                    seconds=2.0,
                    fixed_mask_id=fixed,
                )
            ]
        )

    say(0, "auto/1/0", VerdictKind.REJECT)
    say(0, "auto/1/1", VerdictKind.ACCEPT)
    say(0, "auto/1/2", VerdictKind.FIX, "review/1/fix-2")
    say(0, "no-run", VerdictKind.ACCEPT)
    say(1, "auto/1/0", VerdictKind.ACCEPT)  # reviewed again
    found = catalog.ledger.by_run()
    assert found["auto"] == RunSums(accepted=2, fixed=1)
    assert found["auto"].judged == 3
    assert found["review"].people_seconds == 10.0
    assert "no-run" not in found


def test_leases_that_run_out_are_counted(catalog: Catalog, clock: FakeClock) -> None:
    world = make_world(catalog)
    queue = AnnotationQueue(catalog, clock=clock)
    ada = catalog.annotators.get_or_create("ada")
    _tasks(catalog, world, TaskKind.ANNOTATE, "run", 2)
    catalog.shards.plan("run", [world.image_ids[:2]])
    first = queue.lease(ada.id, kinds=[TaskKind.ANNOTATE], seconds=10)
    shard = catalog.shards.lease("run", "a", 10)
    assert first is not None
    assert shard is not None
    assert catalog.ledger.overdue(clock()) == {"task": 0, "shard": 0}
    clock.advance(11)
    assert catalog.ledger.overdue(clock()) == {"task": 1, "shard": 1}
    assert catalog.ledger.expiries() == {"task": 0, "shard": 0}
    again = queue.lease(ada.id, kinds=[TaskKind.ANNOTATE], seconds=10)
    taken = catalog.shards.lease("run", "b", 10)
    assert again is not None
    assert taken is not None
    assert (again.id, again.expiries, taken.expiries) == (first.id, 1, 1)
    assert catalog.ledger.expiries() == {"task": 1, "shard": 1}
    queue.release(again.id, str(again.lease_id))  # released is not expired
    catalog.shards.release("run", 0, str(taken.lease_id))
    assert catalog.shards.lease("run", "c", 10) is not None
    assert catalog.ledger.expiries() == {"task": 1, "shard": 1}


def test_counts_for_the_metrics(catalog: Catalog, clock: FakeClock) -> None:
    world = make_world(catalog, images=5)
    _tasks(catalog, world, TaskKind.ANNOTATE, "run", 2)
    made = clock()
    clock.advance(60)
    _tasks(catalog, world, TaskKind.COMPLETE, "run", 1)
    lines = {(row.kind, row.state): row for row in catalog.ledger.queue()}
    assert lines[TaskKind.ANNOTATE, TaskState.OPEN].tasks == 2
    assert lines[TaskKind.ANNOTATE, TaskState.OPEN].oldest == made
    assert lines[TaskKind.COMPLETE, TaskState.OPEN].oldest == clock()
    assert catalog.ledger.runs() == {(RunKind.ASSISTED_MANUAL, RunState.RUNNING): 1}
    catalog.shards.plan("run", [[1], [2]])
    assert catalog.ledger.shards()[ShardState.OPEN] == 2
    catalog.runs.finish("run")
    assert catalog.ledger.shards()[ShardState.OPEN] == 0
    catalog.quarantine.add(world.dataset.id, "a.jpg", "broken", stage="ingest")
    assert catalog.ledger.quarantined() == {"ingest": 1}
    assert catalog.ledger.images() == 5
    assert catalog.ledger.last("backup") is None
    catalog.audit.add("backup", "file")
    assert catalog.ledger.last("backup") == clock()


def test_a_server_has_its_own_clock(catalog: Catalog) -> None:
    theirs = catalog.ledger.database_time()
    if catalog.engine.dialect.name == "sqlite":
        assert theirs is None
    else:
        assert theirs is not None
        assert abs(theirs - datetime.now(UTC)) < timedelta(seconds=5)


def test_what_workers_spend_adds_up(catalog: Catalog) -> None:
    make_world(catalog, images=1)
    catalog.runs.spend("run", cpu_seconds=1.5)
    catalog.runs.spend("run", cpu_seconds=2.0, gpu_seconds=0.25)
    catalog.runs.spend("no such run", cpu_seconds=1.0)
    run = catalog.runs.get("run")
    assert (run.cpu_seconds, run.gpu_seconds) == (3.5, 0.25)
