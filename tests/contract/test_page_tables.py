"""Sign-ins, drafts, the audit log and the queue's reports, on every database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    AnnotatorKind,
    Catalog,
    ConstraintError,
    NewTask,
    NewVerdict,
    StaleStateError,
    TaskKind,
    TaskResult,
    VerdictKind,
)
from tests.contract.database_fixtures import (
    FakeClock,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)


@pytest.fixture
def queue(catalog: Catalog, clock: FakeClock) -> AnnotationQueue:
    """Four tasks on four images."""
    world = make_world(catalog, images=4)
    found = AnnotationQueue(catalog, clock=clock)
    found.add(
        [
            NewTask(
                dataset_id=world.dataset.id,
                image_id=image_id,
                kind=TaskKind.ANNOTATE,
                run_id=world.run_id,
            )
            for image_id in world.image_ids
        ]
    )
    return found


def hand_in(queue: AnnotationQueue, annotator_id: int, **result: Any) -> int:
    task = queue.lease(annotator_id, kinds=[TaskKind.ANNOTATE])
    assert task is not None
    queue.submit(task.id, str(task.lease_id), f"key-{task.id}", TaskResult(**result))
    return task.id


# sign-in links and sessions


def test_a_token_is_used_up_by_one_of_many_at_once(catalog: Catalog) -> None:
    ada = catalog.annotators.get_or_create("ada")
    catalog.annotators.set_token(ada.id, "a" * 64, 60)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: catalog.annotators.take_token("a" * 64), range(8)))
    assert [person for person in found if person is not None] == [ada]
    assert catalog.annotators.take_token("b" * 64) is None


def test_a_token_runs_out(catalog: Catalog, clock: FakeClock) -> None:
    ada = catalog.annotators.get_or_create("ada")
    catalog.annotators.set_token(ada.id, "a" * 64, 60)
    clock.advance(61)
    assert catalog.annotators.take_token("a" * 64) is None


def test_a_session_lasts_its_time_and_ends_when_told(catalog: Catalog, clock: FakeClock) -> None:
    ada = catalog.annotators.get_or_create("ada")
    for name in ("s1", "s2", "s3"):
        catalog.sign_ins.start(ada.id, name, 100)
    assert catalog.sign_ins.find("s1") == ada
    catalog.sign_ins.end("s1")
    assert catalog.sign_ins.find("s1") is None
    assert catalog.sign_ins.find("s2") == ada
    clock.advance(100)
    assert catalog.sign_ins.find("s2") is None
    catalog.sign_ins.start(ada.id, "s4", 100)
    catalog.sign_ins.end_all(ada.id)
    assert catalog.sign_ins.find("s4") is None
    with pytest.raises(ConstraintError):
        catalog.sign_ins.start(ada.id + 1, "s5", 100)


def test_an_api_token_is_valid_for_its_time_and_its_use_is_noted(
    catalog: Catalog, clock: FakeClock
) -> None:
    ada = catalog.annotators.get_or_create("ada")
    made = catalog.api_tokens.add(ada.id, "nightly", "a" * 64, 1000)
    assert made.used_at is None
    assert catalog.api_tokens.use("a" * 64) == ada
    used = catalog.api_tokens.all()[0].used_at
    clock.advance(10)
    assert catalog.api_tokens.use("a" * 64) == ada
    assert catalog.api_tokens.all()[0].used_at == used  # not written with each request
    clock.advance(100)
    assert catalog.api_tokens.use("a" * 64) == ada
    assert catalog.api_tokens.all()[0].used_at == clock()
    assert catalog.api_tokens.use("b" * 64) is None
    clock.advance(900)
    assert catalog.api_tokens.use("a" * 64) is None
    assert catalog.api_tokens.drop(made.id)
    assert not catalog.api_tokens.drop(made.id)
    with pytest.raises(ConstraintError):
        catalog.api_tokens.add(ada.id + 1, "x", "c" * 64, 10)


def test_who_is_disabled_has_no_session_and_no_link(catalog: Catalog, clock: FakeClock) -> None:
    ada = catalog.annotators.get_or_create("ada")
    catalog.annotators.set_token(ada.id, "a" * 64, 60)
    catalog.sign_ins.start(ada.id, "s1", 100)
    catalog.api_tokens.add(ada.id, "nightly", "t" * 64, 100)
    catalog.annotators.disable(ada.id)
    assert catalog.annotators.get(ada.id).disabled_at == clock()
    assert catalog.annotators.take_token("a" * 64) is None
    assert catalog.sign_ins.find("s1") is None
    assert catalog.api_tokens.use("t" * 64) is None
    catalog.annotators.enable(ada.id)
    assert catalog.sign_ins.find("s1") == catalog.annotators.get(ada.id) == ada


def test_a_role_can_be_changed(catalog: Catalog) -> None:
    ada = catalog.annotators.get_or_create("ada")
    catalog.annotators.set_role(ada.id, "admin")
    found = catalog.annotators.find("ada")
    assert found is not None
    assert found.role == "admin"
    assert catalog.annotators.find("bob") is None


# drafts


def test_only_a_later_draft_replaces_the_kept_one(catalog: Catalog, queue: AnnotationQueue) -> None:
    ada, bob = (catalog.annotators.get_or_create(name).id for name in ("ada", "bob"))
    task = queue.lease(ada, kinds=[TaskKind.ANNOTATE])
    assert task is not None
    assert catalog.drafts.get(task.id, ada) is None
    catalog.drafts.keep(task.id, ada, 2, {"clicks": [1, 2]})
    catalog.drafts.keep(task.id, bob, 1, {"mine": True})
    for late in (1, 2):
        with pytest.raises(StaleStateError):
            catalog.drafts.keep(task.id, ada, late, {})
    catalog.drafts.keep(task.id, ada, 3, {"clicks": [1, 2, 3]})
    found = catalog.drafts.get(task.id, ada)
    assert found is not None
    assert (found.version, found.data) == (3, {"clicks": [1, 2, 3]})
    catalog.drafts.drop(task.id)
    assert catalog.drafts.get(task.id, ada) is None
    assert catalog.drafts.get(task.id, bob) is None
    with pytest.raises(ConstraintError):
        catalog.drafts.keep(task.id + 99, ada, 1, {})


# audit


def test_the_audit_log_tells_the_newest_first(catalog: Catalog) -> None:
    ada = catalog.annotators.get_or_create("ada")
    catalog.audit.add("sign_in", "ada", annotator_id=ada.id)
    catalog.audit.add("action", "retrain", annotator_id=ada.id, command="dataengine retrain")
    first, second = catalog.audit.latest()
    assert (first.action, first.detail) == ("action", {"command": "dataengine retrain"})
    assert (second.action, second.subject, second.annotator_id) == ("sign_in", "ada", ada.id)
    assert catalog.audit.latest(1) == [first]


# the queue's reports


def test_the_task_one_holds_is_found_until_its_lease_runs_out(
    catalog: Catalog, queue: AnnotationQueue, clock: FakeClock
) -> None:
    ada = catalog.annotators.get_or_create("ada").id
    kinds = [TaskKind.ANNOTATE]
    assert queue.held(ada, kinds=kinds) is None
    task = queue.lease(ada, kinds=kinds, seconds=60)
    assert task is not None
    assert queue.held(ada, kinds=kinds) == task
    assert queue.held(ada, kinds=[TaskKind.REVIEW]) is None
    assert [t.id for t in queue.upcoming(kinds=kinds, limit=2)] == [task.id + 1, task.id + 2]
    clock.advance(60)
    assert queue.held(ada, kinds=kinds) is None


def test_the_queue_is_counted_by_kind_with_the_age_of_its_oldest(
    catalog: Catalog, queue: AnnotationQueue, clock: FakeClock
) -> None:
    ada = catalog.annotators.get_or_create("ada").id
    hand_in(queue, ada, made=2)
    clock.advance(90)
    counts = queue.by_kind()
    assert counts[TaskKind.ANNOTATE] == {
        "open": 3,
        "leased": 0,
        "submitted": 1,
        "skipped": 0,
        "oldest_seconds": 90,
    }
    assert counts[TaskKind.REVIEW]["open"] == counts[TaskKind.REVIEW]["oldest_seconds"] == 0


def test_what_annotators_have_done_is_summed(
    catalog: Catalog, queue: AnnotationQueue, clock: FakeClock
) -> None:
    ada, bob = (catalog.annotators.get_or_create(name).id for name in ("ada", "bob"))
    hand_in(queue, ada, made=2, prefilled_kept=3, seconds=10.5)
    clock.advance(10)
    hand_in(queue, ada, made=1, seconds=4.0)
    last = hand_in(queue, bob, quarantined="not an image")
    rows = queue.by_annotator()
    assert (rows[ada].tasks, rows[ada].masks, rows[ada].seconds) == (2, 6, 14.5)
    assert rows[ada].last_seen == clock.now
    assert (rows[bob].tasks, rows[bob].masks, rows[bob].seconds) == (1, 0, 0.0)
    assert [task.id for task in queue.latest(1, kinds=[TaskKind.ANNOTATE])] == [last]
    assert queue.latest(1, kinds=[TaskKind.REVIEW]) == []
    assert rows[ada].reviews == 0


def test_reviewers_agree_where_they_said_the_same_of_a_mask(
    catalog: Catalog, queue: AnnotationQueue
) -> None:
    ada, bob, eve = (catalog.annotators.get_or_create(n).id for n in ("ada", "bob", "eve"))
    tasks = [task.id for task in queue.upcoming(kinds=[TaskKind.ANNOTATE], limit=3)]

    def say(task: int, who: int, **verdicts: VerdictKind) -> None:
        catalog.verdicts.add_many(
            [
                NewVerdict(mask_id=m, task_id=tasks[task], verdict=v, annotator_id=who, seconds=1)
                for m, v in verdicts.items()
            ]
        )

    yes, no = VerdictKind.ACCEPT, VerdictKind.REJECT
    say(0, ada, a=yes, b=no, c=yes, d=yes)
    say(1, bob, a=yes, b=yes, c=yes, e=no)
    say(2, eve, f=no)
    agreed = catalog.verdicts.agreement()
    assert agreed == {ada: pytest.approx(2 / 3), bob: pytest.approx(2 / 3)}


def test_a_models_verdict_counts_only_where_nobody_else_has_judged(
    catalog: Catalog, queue: AnnotationQueue
) -> None:
    ada = catalog.annotators.get_or_create("ada").id
    one, two = (
        catalog.annotators.get_or_create(name, kind=AnnotatorKind.MODEL).id for name in ("v1", "v2")
    )
    tasks = queue.upcoming(kinds=[TaskKind.ANNOTATE], limit=3)
    dataset = tasks[0].dataset_id

    def say(task: int, who: int, **verdicts: VerdictKind) -> None:
        catalog.verdicts.add_many(
            [
                NewVerdict(
                    mask_id=f"run/1/{mask}",
                    task_id=tasks[task].id,
                    verdict=verdict,
                    annotator_id=who,
                    seconds=0,
                )
                for mask, verdict in verdicts.items()
            ]
        )

    yes, no = VerdictKind.ACCEPT, VerdictKind.REJECT
    say(0, one, a=yes, b=yes, c=yes)
    say(1, ada, a=no, d=no)
    say(2, two, a=yes, b=no, d=yes)
    assert catalog.verdicts.accepted_mask_ids(dataset) == {"run/1/c"}
    assert catalog.verdicts.rejected_mask_ids(dataset) == {"run/1/a", "run/1/b", "run/1/d"}
    assert catalog.verdicts.counts(dataset) == {yes: 1, no: 3, VerdictKind.FIX: 0}
    assert [row.mask_id for row in catalog.verdicts.of_people(dataset)] == ["run/1/a", "run/1/d"]
    assert catalog.verdicts.asked_mask_ids(dataset, besides=[one, two]) == {"run/1/a", "run/1/d"}
    assert len(catalog.verdicts.asked_mask_ids(dataset, besides=[two])) == 4
    assert catalog.verdicts.agreement() == {}
    found = catalog.ledger.by_run()["run"]
    assert (found.accepted, found.rejected) == (1, 3)
