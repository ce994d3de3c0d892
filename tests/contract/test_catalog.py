"""The contract of the catalog, on every database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from engine.core.records import Stage
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    AlreadyExistsError,
    AnnotatorKind,
    Catalog,
    CatalogNotMigratedError,
    CatalogTooNewError,
    ConstraintError,
    DatasetNotFoundError,
    LeaseLostError,
    LoopConflictError,
    LoopState,
    ModelState,
    NewImage,
    NewTask,
    NewVerdict,
    NotFoundError,
    PlannedRound,
    ReleaseState,
    RoundState,
    RunKind,
    RunState,
    ShardState,
    Split,
    StaleStateError,
    TaskKind,
    VerdictKind,
    new_id,
)
from storage.catalog.schema import check
from storage.catalog.tables import Base, DatasetRow
from tests.contract.database_fixtures import (
    FakeClock,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    empty_database_url_fixture,  # noqa: F401
    make_world,
    new_image,
)

PLAN = [
    PlannedRound(stage=Stage.ASSISTED_MANUAL, images=10),
    PlannedRound(stage=Stage.ASSISTED_MANUAL, images=20),
    PlannedRound(stage=Stage.FULLY_AUTOMATIC, images=30),
]


# The database


def test_an_unmigrated_database_says_what_to_do(empty_database_url: str) -> None:
    with Catalog(empty_database_url) as catalog:
        with pytest.raises(CatalogNotMigratedError, match=r"catalog\.migrate\(\)"):
            catalog.datasets.all()
        assert catalog.revision() is None
        catalog.migrate()
        assert catalog.datasets.all() == []


def test_a_newer_database_is_refused(empty_database_url: str) -> None:
    with Catalog(empty_database_url) as catalog:
        catalog.migrate()
        with catalog.session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            session.commit()
        with pytest.raises(CatalogTooNewError, match="9999"):
            check(catalog.engine)
        with pytest.raises(CatalogTooNewError, match="9999"):
            catalog.migrate()


def test_migrations_make_exactly_the_tables_of_the_models(empty_database_url: str) -> None:
    with Catalog(empty_database_url) as catalog:
        catalog.migrate()
        with catalog.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []


def test_two_processes_may_migrate_at_once(empty_database_url: str) -> None:
    barrier = Barrier(2)

    def migrate() -> str:
        with Catalog(empty_database_url) as catalog:
            barrier.wait()
            return catalog.migrate()

    with ThreadPoolExecutor(2) as pool:
        revisions = [pool.submit(migrate) for _ in range(2)]
        found = {future.result() for future in revisions}
    with Catalog(empty_database_url) as catalog:
        assert found == {catalog.revision()}


def test_sqlite_writes_ahead_and_enforces_foreign_keys(catalog: Catalog) -> None:
    if catalog.engine.dialect.name != "sqlite":
        pytest.skip("SQLite's own settings")
    with catalog.reading() as session:
        values = [
            session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    assert values == ["wal", 1, 30_000]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name"])
def test_only_files_and_postgresql_make_a_catalog(url: str) -> None:
    with pytest.raises(ValueError, match="catalog"):
        Catalog(url)


def test_a_unit_of_work_rolls_back_unless_committed(catalog: Catalog, clock: FakeClock) -> None:
    with catalog.session() as session:
        session.add(DatasetRow(name="forgotten", created_at=clock()))
        session.flush()
    assert catalog.datasets.all() == []


def test_a_row_that_refers_to_nothing_is_refused(catalog: Catalog) -> None:
    with pytest.raises(ConstraintError):
        catalog.images.add_many(99, [new_image(1)])


def test_nan_in_json_is_refused(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        catalog.models.add("v1", architecture="lite", key="k", card={"iou": float("nan")})


def test_times_come_back_in_utc_whatever_zone_they_went_in(
    catalog: Catalog, clock: FakeClock
) -> None:
    clock.now = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    catalog.datasets.get_or_create("birds")
    created = catalog.datasets.get("birds").created_at
    assert created == clock.now
    assert created.tzinfo is UTC
    clock.now = datetime(2026, 7, 1, 12)
    with pytest.raises(ValueError, match="timezone"):
        catalog.datasets.get_or_create("naive")


# Datasets and images


def test_an_unknown_dataset_lists_the_known_names(catalog: Catalog) -> None:
    birds = catalog.datasets.get_or_create("birds")
    assert catalog.datasets.get_or_create("birds") == birds
    assert catalog.datasets.get_by_id(birds.id) == birds
    with pytest.raises(DatasetNotFoundError, match="known: birds"):
        catalog.datasets.get("bird")


def test_adding_images_twice_keeps_the_first_and_remembers_other_names(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    first = catalog.images.add_many(dataset.id, [new_image(2), new_image(1), new_image(2, "b.jpg")])
    assert first.new == 2
    assert first.ids[0] == first.ids[2] != first.ids[1]
    again = catalog.images.add_many(dataset.id, [new_image(3), new_image(1, "a.jpg")])
    assert (again.new, again.ids[1]) == (1, first.ids[1])
    assert catalog.images.aliases(first.ids[0]) == ["b.jpg"]
    assert catalog.images.count(dataset.id) == 3
    for name in ("1.jpg", "a.jpg"):
        image = catalog.images.find_by_name(dataset.id, name)
        assert image is not None
        assert (image.id, image.file_name) == (first.ids[1], "1.jpg")
    assert catalog.images.find_by_name(dataset.id, "c.jpg") is None


def test_two_ingests_of_the_same_images_agree_on_their_ids(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    rows = [new_image(number) for number in range(300)]
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(catalog.images.add_many, dataset.id, rows)
        two = pool.submit(catalog.images.add_many, dataset.id, rows[::-1])
    assert one.result().ids == two.result().ids[::-1]
    assert one.result().new + two.result().new == 300


def test_images_come_in_the_order_asked_for_and_in_pages(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    rows = [new_image(0), replace(new_image(1), split=Split.HELD_OUT), new_image(2)]
    ids = catalog.images.add_many(dataset.id, rows).ids
    assert [image.id for image in catalog.images.get_many(ids[::-1])] == ids[::-1]
    assert [image.id for image in catalog.images.page(dataset.id, after_id=ids[0])] == ids[1:]
    held_out = catalog.images.page(dataset.id, split=Split.HELD_OUT)
    assert [image.id for image in held_out] == [ids[1]]
    assert catalog.images.count(dataset.id, split=Split.TRAIN) == 2
    with pytest.raises(NotFoundError):
        catalog.images.get(10**6)


def test_quarantine_counts_each_failure_once(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    assert catalog.quarantine.add(dataset.id, "a.jpg", "truncated", stage="ingest")
    assert not catalog.quarantine.add(dataset.id, "a.jpg", "truncated", stage="ingest")
    catalog.quarantine.add(dataset.id, "b.jpg", "truncated", stage="ingest")
    catalog.quarantine.add(dataset.id, "b.jpg", "x" * 9_000, stage="generate")
    assert list(catalog.quarantine.counts(dataset.id).items()) == [("truncated", 2), ("x" * 500, 1)]
    assert [entry.path for entry in catalog.quarantine.all(dataset.id)] == ["b.jpg"] * 2 + ["a.jpg"]


# Loops and rounds


def test_a_loop_is_resumed_with_its_rounds_and_started_anew_only_on_demand(
    catalog: Catalog,
) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    loop = catalog.loops.start_or_resume(dataset.id, PLAN)
    assert catalog.loops.start_or_resume(dataset.id, PLAN, new=True) == loop
    rounds = catalog.rounds.for_loop(loop.id)
    assert [(one.position, one.number, one.stage) for one in rounds] == [
        (0, 1, "assisted_manual"),
        (1, 2, "assisted_manual"),
        (2, 1, "fully_automatic"),
    ]
    finished = catalog.loops.finish(loop.id)
    assert catalog.loops.finish(loop.id) == finished
    assert catalog.loops.start_or_resume(dataset.id, PLAN) == finished
    second = catalog.loops.start_or_resume(dataset.id, PLAN, new=True)
    assert (second.state, second.id != loop.id) == (LoopState.RUNNING, True)
    assert catalog.loops.latest(dataset.id) == second


def test_an_unfinished_loop_with_another_plan_is_a_conflict(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    catalog.loops.start_or_resume(dataset.id, PLAN)
    with pytest.raises(LoopConflictError):
        catalog.loops.start_or_resume(dataset.id, PLAN[:1])
    with pytest.raises(ValueError, match="ground_truth"):
        PlannedRound(stage=Stage.GROUND_TRUTH, images=1)


def test_processes_that_start_a_loop_at_once_get_the_same_one(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    with ThreadPoolExecutor(4) as pool:
        loops = list(pool.map(lambda _: catalog.loops.start_or_resume(dataset.id, PLAN), range(4)))
    assert {loop.id for loop in loops} == {loops[0].id}
    assert len(catalog.rounds.for_loop(loops[0].id)) == 3


def test_a_round_advances_only_from_the_state_it_is_in(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    loop = catalog.loops.start_or_resume(dataset.id, PLAN)
    one = catalog.rounds.for_loop(loop.id)[0]
    opened, collected = RoundState.OPENED, RoundState.COLLECTED
    catalog.rounds.advance(one.id, RoundState.PLANNED, opened, model_in="v1", run_id="r")
    with pytest.raises(StaleStateError):
        catalog.rounds.advance(one.id, RoundState.PLANNED, opened, model_in="v2")
    catalog.rounds.advance(one.id, opened, collected, metrics={"masks": 3})
    trained = catalog.rounds.advance(
        one.id, collected, RoundState.TRAINED, model_out="v2", metrics={"iou": 0.5}
    )
    assert trained == catalog.rounds.get(one.id)
    assert (trained.model_in, trained.model_out, trained.run_id) == ("v1", "v2", "r")
    assert trained.metrics == {"masks": 3, "iou": 0.5}
    with pytest.raises(ValueError, match="cannot go"):
        catalog.rounds.advance(one.id, RoundState.TRAINED, opened)


def test_a_near_duplicate_belongs_to_the_first_image_even_if_both_come_at_once(
    catalog: Catalog,
) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    (old,) = catalog.images.add_many(dataset.id, [new_image(0)]).ids

    def seen(number: int, near: int | None) -> NewImage:
        other = None if near is None else new_image(near).sha256
        row = replace(new_image(number), near_sha256=other)
        return replace(row, perceptual_hash="0f" * 8, colours="ff" * 48)

    ids = catalog.images.add_many(dataset.id, [seen(2, near=1), seen(1, near=None)]).ids
    (last,) = catalog.images.add_many(dataset.id, [seen(3, near=2)]).ids
    assert catalog.images.near_duplicates(dataset.id) == {ids[0]: ids[1], last: ids[1]}
    assert catalog.images.count_near_duplicates(dataset.id) == 2
    # an image without a hash gets one later, and others keep theirs
    changed = replace(seen(1, near=None), perceptual_hash="00" * 8)
    assert catalog.images.add_many(dataset.id, [seen(0, near=1), changed]).new == 0
    known = [(old, ids[1]), (ids[1], None), (ids[0], ids[1]), (last, ids[1])]
    found = [(one, "0f" * 8, near) for one, near in sorted(known)]
    assert list(catalog.images.hashes(dataset.id)) == found
    assert [one for one, _ in catalog.images.colours(dataset.id)] == sorted([old, *ids, last])


def test_each_round_of_a_loop_takes_fresh_images(catalog: Catalog) -> None:
    world = make_world(catalog, images=5)
    loop = catalog.loops.start_or_resume(world.dataset.id, PLAN)
    first, second, _ = catalog.rounds.for_loop(loop.id)

    def unused() -> list[int]:
        return catalog.images.unused_ids_in_loop(world.dataset.id, loop.id, limit=2)

    assert unused() == world.image_ids[:2]
    assert catalog.rounds.assign_images(first.id, unused()) == 2
    assert catalog.rounds.assign_images(first.id, world.image_ids[:2]) == 0
    assert catalog.rounds.image_ids(first.id) == world.image_ids[:2]
    catalog.rounds.assign_images(second.id, unused())
    assert unused() == world.image_ids[4:]
    catalog.loops.finish(loop.id)
    loop = catalog.loops.start_or_resume(world.dataset.id, PLAN, new=True)
    assert unused() == world.image_ids[:2]


# Runs and shards


def test_a_run_starts_once_and_ends_once(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("birds")
    run_id = new_id()
    started = catalog.runs.start(run_id, RunKind.RETRAIN, dataset_id=dataset.id, config={"n": 1})
    assert catalog.runs.start(run_id, RunKind.RETRAIN, dataset_id=dataset.id) == started
    with pytest.raises(AlreadyExistsError):
        catalog.runs.start(run_id, RunKind.REVIEW, dataset_id=dataset.id)
    catalog.runs.fail(run_id, "out of memory")
    with pytest.raises(StaleStateError):
        catalog.runs.finish(run_id)
    assert catalog.runs.start(run_id, RunKind.RETRAIN, dataset_id=dataset.id) == started
    finished = catalog.runs.finish(run_id, {"loss": 0.5})
    assert catalog.runs.finish(run_id, {"loss": 9}) == finished
    assert (finished.state, finished.metrics) == (RunState.FINISHED, {"loss": 0.5})
    assert catalog.runs.all(kind=RunKind.RETRAIN, dataset_id=dataset.id) == [finished]
    assert catalog.runs.counts()[RunState.FINISHED] == 1


def test_a_run_keeps_the_shards_it_was_planned_with(catalog: Catalog) -> None:
    run_id = make_world(catalog).run_id
    assert catalog.shards.plan(run_id, [[1, 2], [3]]) == 2
    assert catalog.shards.plan(run_id, [[1], [2], [3]]) == 0
    assert [shard.image_ids for shard in catalog.shards.all(run_id)] == [[1, 2], [3]]


def test_a_shard_is_leased_committed_and_counted(catalog: Catalog) -> None:
    run_id = make_world(catalog).run_id
    catalog.shards.plan(run_id, [[1], [2]])
    shard = catalog.shards.lease(run_id, "worker", 60)
    assert shard is not None
    assert shard.lease_id is not None
    assert (shard.shard, shard.state, shard.attempts) == (0, ShardState.LEASED, 1)
    for masks in (7, 8):  # the second time changes nothing
        catalog.shards.commit(run_id, 0, shard.lease_id, masks=masks, table_version=3, seconds=1.5)
    totals = catalog.shards.totals(run_id)
    assert (totals.shards, totals.committed, totals.masks) == (2, 1, 7)
    assert (totals.seconds, totals.table_version) == (1.5, 3)
    assert catalog.shards.remaining(run_id) == 1


def test_an_expired_shard_goes_to_the_next_worker(catalog: Catalog, clock: FakeClock) -> None:
    run_id = make_world(catalog).run_id
    catalog.shards.plan(run_id, [[1]])
    first = catalog.shards.lease(run_id, "first", 60)
    assert first is not None
    assert first.lease_id is not None
    assert catalog.shards.lease(run_id, "second", 60) is None
    clock.advance(30)
    catalog.shards.renew(run_id, 0, first.lease_id, 60)
    clock.advance(59)
    assert catalog.shards.lease(run_id, "second", 60) is None
    clock.advance(1)
    second = catalog.shards.lease(run_id, "second", 60)
    assert second is not None
    assert second.lease_id is not None
    assert (second.lease_owner, second.attempts) == ("second", 2)
    with pytest.raises(LeaseLostError):
        catalog.shards.commit(run_id, 0, first.lease_id, masks=1, table_version=1, seconds=1)
    with pytest.raises(LeaseLostError):
        catalog.shards.renew(run_id, 0, first.lease_id, 60)
    catalog.shards.release(run_id, 0, second.lease_id)
    assert catalog.shards.lease(run_id, "third", 60) is not None


def test_eight_workers_share_the_shards_without_doing_one_twice(catalog: Catalog) -> None:
    run_id = make_world(catalog).run_id
    catalog.shards.plan(run_id, [[number] for number in range(40)])

    def work(worker: int) -> list[int]:
        done = []
        while shard := catalog.shards.lease(run_id, str(worker), 60):
            assert shard.lease_id is not None
            done.append(shard.shard)
            catalog.shards.commit(
                run_id, shard.shard, shard.lease_id, masks=1, table_version=1, seconds=0
            )
        return done

    with ThreadPoolExecutor(8) as pool:
        done = [shard for shards in pool.map(work, range(8)) for shard in shards]
    assert sorted(done) == list(range(40))
    assert catalog.shards.totals(run_id).masks == 40


# Verdicts, releases, annotators, status


def test_the_latest_verdict_on_a_mask_counts(catalog: Catalog) -> None:
    world = make_world(catalog, images=2)
    reviewer = catalog.annotators.get_or_create("ada").id
    queue = AnnotationQueue(catalog)
    queue.add(
        [
            NewTask(dataset_id=world.dataset.id, image_id=image, kind=TaskKind.REVIEW, run_id="run")
            for image in world.image_ids
        ]
    )
    tasks = []
    while task := queue.lease(reviewer, kinds=[TaskKind.REVIEW]):
        tasks.append(task.id)

    def verdict(mask: str, task: int, kind: VerdictKind, fix: str | None = None) -> NewVerdict:
        return NewVerdict(
            mask_id=mask,
            task_id=task,
            verdict=kind,
            annotator_id=reviewer,
            seconds=2.5,
            fixed_mask_id=fix,
        )

    first = [
        verdict("a", tasks[0], VerdictKind.REJECT),
        verdict("b", tasks[0], VerdictKind.REJECT),
        verdict("c", tasks[0], VerdictKind.FIX, "c2"),
    ]
    assert catalog.verdicts.add_many(first) == 3
    assert catalog.verdicts.add_many(first) == 0
    catalog.verdicts.add_many([verdict("a", tasks[1], VerdictKind.ACCEPT)])
    assert catalog.verdicts.accepted_mask_ids(world.dataset.id) == {"a"}
    assert catalog.verdicts.rejected_mask_ids(world.dataset.id) == {"b"}
    assert catalog.verdicts.fixes(world.dataset.id) == {"c": "c2"}
    assert list(catalog.verdicts.counts(world.dataset.id).values()) == [1, 1, 1]
    assert [one.mask_id for one in catalog.verdicts.for_run("run")] == ["a", "b", "c", "a"]
    with pytest.raises(ValueError, match="fix"):
        verdict("d", tasks[1], VerdictKind.FIX)


def test_a_resumed_release_keeps_the_table_version_it_was_started_with(
    catalog: Catalog, clock: FakeClock
) -> None:
    birds = catalog.datasets.get_or_create("birds").id
    cats = catalog.datasets.get_or_create("cats").id
    started = catalog.releases.start("v1", dataset_id=birds, table_version=3, key="releases/v1")
    assert started.state == ReleaseState.BUILDING
    assert catalog.releases.start("v1", dataset_id=birds, table_version=4, key="x") == started
    with pytest.raises(AlreadyExistsError):
        catalog.releases.start("v1", dataset_id=cats, table_version=3, key="releases/v1")
    assert catalog.releases.latest(birds) is None
    done = catalog.releases.finish("v1", {"masks": 10})
    assert catalog.releases.finish("v1", {"masks": 11}) == done
    clock.advance(1)
    catalog.releases.start("v2", dataset_id=birds, table_version=5, key="releases/v2")
    assert catalog.releases.latest(birds) == done
    assert [release.name for release in catalog.releases.all(birds)] == ["v2", "v1"]
    with pytest.raises(NotFoundError):
        catalog.releases.finish("v9", {})


def test_an_annotator_is_found_by_token_until_locked_out(catalog: Catalog) -> None:
    ada = catalog.annotators.get_or_create("ada", role="reviewer")
    robot = catalog.annotators.get_or_create("robot", kind=AnnotatorKind.SIMULATED)
    assert catalog.annotators.get_or_create("ada") == catalog.annotators.get(ada.id) == ada
    catalog.annotators.set_token(ada.id, "hash")
    assert catalog.annotators.find_by_token("hash") == ada
    with pytest.raises(ConstraintError):
        catalog.annotators.set_token(robot.id, "hash")
    catalog.annotators.set_token(ada.id, None)
    assert catalog.annotators.find_by_token("hash") is None
    assert catalog.annotators.all() == [ada, robot]


def test_the_summary_counts_all_datasets(catalog: Catalog) -> None:
    world = make_world(catalog, images=3)
    other = catalog.datasets.get_or_create("cats")
    catalog.loops.start_or_resume(world.dataset.id, PLAN)
    catalog.quarantine.add(other.id, "x", "bad", stage="ingest")
    catalog.models.add("v1", architecture="lite", key="models/v1")
    summary = catalog.summary()
    assert summary.images == {Split.TRAIN: 3, Split.HELD_OUT: 0}
    assert (summary.runs[RunState.RUNNING], summary.rounds[RoundState.PLANNED]) == (1, 3)
    assert summary.quarantined == 1
    assert summary.models[ModelState.CANDIDATE] == 1
