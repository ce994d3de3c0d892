"""The page Work over HTTP: own tasks, images to choose, the day's figures, the round's progress."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.work_schemas import MyTask, WorkView
from flows.loop.data_engine import LoopPlan
from flows.stages.rounds import open_round
from storage.catalog import NewTask, RoundState, TaskKind
from tests.annotation.site import Site
from tests.annotation.test_tasks import new_mask, taken


def today(client: Client) -> WorkView:
    return client.work(datetime.now(UTC) - timedelta(hours=1))


def refusal(call: Callable[[], object]) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        call()
    return refused.value


def tasks(client: Client) -> list[tuple[int, str]]:
    return [(task.task_id, task.state) for task in today(client).tasks]


def test_a_chosen_image_is_the_next_task_and_nobody_else_gets_it(
    site: Site, ada: Client, bob: Client
) -> None:
    site.annotate()
    page = ada.waiting("d")
    assert (page.total, [row.image.id for row in page.tasks]) == (3, site.image_ids)
    last = page.tasks[-1]
    thumbnail = f"/api/browse/images/{last.image.id}/thumbnail"
    assert ada._send("GET", thumbnail).content[:2] == b"\xff\xd8"
    assert refusal(lambda: ada.pixels(last.image.id)).status == 404  # only the held one in full
    ada.take(last.task_id)
    assert taken(ada).id == last.task_id
    assert tasks(ada) == [(last.task_id, "held")]
    found = refusal(lambda: bob.take(last.task_id))
    assert (found.status, found.error) == (409, "taken")
    assert [row.task_id for row in bob.waiting("d").tasks] == [
        row.task_id for row in page.tasks[:-1]
    ]


def test_of_several_held_tasks_the_chosen_one_comes_next(site: Site, ada: Client) -> None:
    site.annotate()
    first, second, _ = ada.waiting("d").tasks
    ada.take(first.task_id)
    ada.take(second.task_id)
    assert taken(ada).id == second.task_id
    ada.take(first.task_id)
    assert taken(ada).id == first.task_id
    assert sorted(tasks(ada)) == [(first.task_id, "held"), (second.task_id, "held")]


def test_begun_and_reserved_tasks_are_ones_own_and_others_do_not_see_the_reserved_ones(
    site: Site, ada: Client, bob: Client
) -> None:
    site.annotate()
    task = taken(ada)
    ada.save_draft(task, 1, {"masks": []})
    ada.release(task)
    person = site.workspace.catalog.annotators.find("ada")
    assert person is not None
    review = NewTask(
        dataset_id=site.dataset_id,
        image_id=site.image_ids[2],
        kind=TaskKind.COMPLETE,
        run_id="annotate",
        reserved_for=person.id,
        payload={"note": "Look at the left edge."},
    )
    site.workspace.queue.add([review])
    begun, reserved = today(ada).tasks
    assert (begun.task_id, begun.state) == (task.id, "begun")
    assert (reserved.state, reserved.note) == ("reserved", "Look at the left edge.")
    assert today(bob).tasks == []
    assert reserved.task_id not in [row.task_id for row in bob.waiting("d").tasks]
    assert refusal(lambda: bob.take(reserved.task_id)).status == 404
    ada.take(begun.task_id)
    assert taken(ada).draft is not None


def test_the_day_counts_what_was_submitted_since_it_began(site: Site, ada: Client) -> None:
    site.annotate()
    ada.submit(taken(ada), [new_mask("a"), new_mask("b")], seconds=30)
    ada.submit(taken(ada), [new_mask("a")], seconds=12.5)
    done = today(ada).today
    assert (done.images, done.masks, done.reviews, done.seconds) == (2, 3, 0, 42.5)
    later = ada.work(datetime.now(UTC) + timedelta(minutes=1)).today
    assert (later.images, later.seconds) == (0, 0)
    assert ada.finished(dataset="d").total == 2
    assert refusal(lambda: ada.finished(dataset="nowhere")).status == 404
    naive = refusal(lambda: ada._send("GET", "/api/work?since=2026-01-01T00:00:00"))
    assert naive.status == 422


def opened_round(site: Site) -> None:
    """Open the loop's first round, with a task for each image."""
    catalog = site.workspace.catalog
    plan = LoopPlan(images_per_round=3, annotator="people").rounds()
    loop = catalog.loops.start_or_resume(site.dataset_id, plan)
    row = open_round(site.workspace, catalog.rounds.for_loop(loop.id)[0])
    assert row.state == RoundState.OPENED
    site.workspace.queue.add(
        [
            NewTask(
                dataset_id=site.dataset_id,
                image_id=image_id,
                kind=TaskKind.ANNOTATE,
                run_id=str(row.run_id),
                round_id=row.id,
            )
            for image_id in site.image_ids
        ]
    )


def test_the_rounds_progress_and_the_time_that_is_left(site: Site, ada: Client) -> None:
    opened_round(site)
    (dataset,) = today(ada).datasets
    assert dataset.round is not None
    assert (dataset.waiting, dataset.round.done, dataset.round.total) == (3, 0, 3)
    assert dataset.round.seconds_left is None
    ada.submit(taken(ada), [new_mask()], seconds=40)
    ada.submit(taken(ada), [new_mask()], seconds=20)
    (dataset,) = today(ada).datasets
    assert dataset.round is not None
    assert (dataset.waiting, dataset.round.done) == (1, 2)
    assert dataset.round.seconds_left == pytest.approx(30)


def test_work_covers_only_the_datasets_of_the_annotator(site: Site, ada: Client) -> None:
    site.annotate()
    first = ada.waiting("d").tasks[0]
    people = site.workspace.catalog.annotators
    person = people.find("ada")
    assert person is not None
    people.set_datasets(person.id, [])
    view = today(ada)
    assert (view.datasets, view.tasks) == ([], [])
    assert refusal(lambda: ada.waiting("d")).status == 404
    assert refusal(lambda: ada.take(first.task_id)).status == 404
    thumbnail = f"/api/browse/images/{first.image.id}/thumbnail"
    assert refusal(lambda: ada._send("GET", thumbnail)).status == 404


def test_reviews_are_for_reviewers(site: Site, ada: Client, rita: Client) -> None:
    site.review()
    review = rita.next_task([TaskKind.REVIEW]).task
    assert review is not None
    rita.release(review)
    assert refusal(lambda: ada.take(review.id)).error == "role"
    rita.take(review.id)
    (held,) = today(rita).tasks
    assert isinstance(held, MyTask)
    assert (held.kind, held.task_id) == (TaskKind.REVIEW, review.id)
