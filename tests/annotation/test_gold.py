"""Gold tasks over real HTTP: unseen, scored, never committed, and told about where that is on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.annotation.access import COOKIE
from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.schemas import NewMask, Submitted, TaskView
from engine.core.records import Source, Stage
from flows.review.gold import add_from_truth, gold_scores
from flows.stages.commit_answers import commit_answers
from flows.stages.run_context import context_without_round
from storage.catalog import NewTask, RunKind, TaskKind, TaskState, utc_now
from storage.masks import write_parquet
from tests.annotation.site import Site, make_site, served
from tests.annotation.test_tasks import new_mask, taken

ORDINARY, GOLD = 4, 3
"""Images with ordinary tasks, and gold images after them."""


@pytest.fixture
def rules() -> dict[str, Any]:
    return {"gold_first": 1, "gold_share": 0.5, "feedback": True}


@pytest.fixture
def site(tmp_path: Path, rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Site:
    for name, value in rules.items():
        monkeypatch.setenv(f"DATAENGINE_QUALITY__{name.upper()}", str(value))
    found = make_site(tmp_path / "ws", images=ORDINARY + GOLD, size=(96, 128))
    with_truth(found, range(ORDINARY, ORDINARY + GOLD))
    add_from_truth(found.workspace, "d", GOLD, 0)
    return found


def with_truth(site: Site, numbers: range) -> None:
    """Store the true masks of some images."""
    rows = [
        mask
        for number in numbers
        for mask in site.mask_rows(
            number, "truth", Source.IMPORTED, Stage.ASSISTED_MANUAL, limit=99
        )
    ]
    site.workspace.truths.commit(rows, run_id="truth", shard=0)


def queue(site: Site, kind: TaskKind = TaskKind.ANNOTATE) -> None:
    """Queue the ordinary images; `complete` tasks and gold images with a pre-filled mask."""
    is_new = kind == TaskKind.ANNOTATE
    site.start_run("work", RunKind.ASSISTED_MANUAL if is_new else RunKind.SEMI_AUTOMATIC)
    tasks = []
    for number, image_id in enumerate(site.image_ids):
        payload = {}
        if not is_new:
            payload["prefill"] = key = f"prefill/work/{image_id}.parquet"
            rows = site.mask_rows(number, "work", Source.PREFILL, Stage.SEMI_AUTOMATIC, limit=1)
            site.workspace.objects.put(key, write_parquet(rows))
        if number < ORDINARY:
            dataset = site.dataset_id
            task = NewTask(
                dataset_id=dataset, image_id=image_id, kind=kind, run_id="work", payload=payload
            )
            tasks.append(task)
    site.workspace.queue.add(tasks)


def true_masks(site: Site, task: TaskView, leave_out: int = 0) -> list[NewMask]:
    masks = site.masks_of(site.image_ids.index(task.image.id))
    return [new_mask(f"m{n}", mask) for n, mask in enumerate(masks[leave_out:])]


def work(
    site: Site, client: Client, kind: TaskKind = TaskKind.ANNOTATE
) -> Iterator[tuple[TaskView, Submitted]]:
    """Answer all tasks; pre-filled masks are kept, and are the largest true ones."""
    while (task := client.next_task([kind]).task) is not None:
        made = true_masks(site, task, leave_out=len(task.masks))
        yield task, client.submit(task, made, seconds=9)


def is_gold(site: Site, task: TaskView) -> bool:
    return site.image_ids.index(task.image.id) >= ORDINARY


@pytest.mark.parametrize("kind", [TaskKind.ANNOTATE, TaskKind.COMPLETE])
@pytest.mark.parametrize("rules", [{"gold_first": 1, "gold_share": 0.5}])
def test_nothing_that_the_page_gets_tells_a_gold_task(
    site: Site, ada: Client, kind: TaskKind
) -> None:
    queue(site, kind)
    done = list(work(site, ada, kind))
    assert is_gold(site, done[0][0])
    golden = [task for task, _ in done if is_gold(site, task)]
    assert len(done) == ORDINARY + len(golden)
    assert [task.id for task, _ in done] == list(range(1, len(done) + 1))
    assert [task.waiting for task, _ in done] == list(range(len(done)))[::-1]
    alike = []
    for task, submitted in done:
        sent = task.model_dump(mode="json")
        own = ("id", "image", "lease_id", "expires_at", "waiting", "masks")
        alike.append({name: value for name, value in sent.items() if name not in own})
        assert submitted.model_dump().keys() == {"task_id", "masks", "was_known", "feedback"}
        assert submitted.feedback is None
        for mask in task.masks:
            assert mask.mask_id == f"work/{task.image.id}/0"
    assert all(one == alike[0] for one in alike)
    assert len({len(task.masks) for task, _ in done}) == 1
    scores = site.workspace.catalog.gold.scores()
    assert [(s.image_id, s.found_75) for s in scores] == [
        (t.image.id, s.truths) for t, s in zip(golden, scores, strict=True)
    ]


def test_gold_answers_are_scored_and_count_as_nobodys_work(site: Site, ada: Client) -> None:
    queue(site)
    golden = [task for task, _ in work(site, ada) if is_gold(site, task)]
    workspace = site.workspace
    run = workspace.catalog.runs.get("work")
    figures = commit_answers(workspace, context_without_round(workspace, run))
    assert figures.images == ORDINARY
    committed = {mask.image_id for mask in workspace.masks.masks()}
    assert committed == set(site.image_ids[:ORDINARY])
    workspace.catalog.runs.finish("work")
    person = workspace.catalog.annotators.find("ada")
    assert person is not None
    theirs = workspace.queue.by_annotator()[person.id]
    assert (theirs.tasks, theirs.seconds) == (ORDINARY, 9.0 * ORDINARY)
    assert workspace.catalog.ledger.submitted_work()[site.dataset_id].images == ORDINARY
    annotated = workspace.catalog.images.annotated_ids(site.dataset_id, before=utc_now())
    assert annotated == set(site.image_ids[:ORDINARY])
    (row,) = gold_scores(workspace)
    assert (row["annotator"], row["answers"], row["score"]) == ("ada", len(golden), 1.0)
    assert [answer["image"] for answer in row["history"]] == [task.image.id for task in golden]


@pytest.mark.parametrize("rules", [{"gold_first": 3, "feedback": True}])
def test_feedback_says_what_was_missed_and_never_where(site: Site, ada: Client) -> None:
    queue(site)
    task = taken(ada)
    truths = len(site.masks_of(site.image_ids.index(task.image.id)))
    answer = ada.submit(task, true_masks(site, task, leave_out=2), seconds=4)
    said = f"2 of {truths} objects missed, or masked badly. Your masks match the known ones by 1.00"
    assert answer.feedback is not None
    assert answer.feedback.startswith(said)
    again = ada.submit(task, true_masks(site, task, leave_out=2), seconds=4)
    assert (again.was_known, again.feedback) == (True, answer.feedback)
    task = taken(ada)
    perfect = ada.submit(task, true_masks(site, task), seconds=4)
    assert str(perfect.feedback).startswith("You found ")
    assert "100 % of their outlines are where they should be." in str(perfect.feedback)
    task = taken(ada)
    assert ada.submit(task, [], seconds=4).feedback is not None
    task = taken(ada)
    assert not is_gold(site, task)
    assert ada.submit(task, [], seconds=4).feedback is None


@pytest.mark.parametrize("rules", [{"gold_first": 2}])
def test_a_gold_task_is_for_one_person_and_a_skipped_one_does_not_come_back(
    site: Site, ada: Client, bob: Client
) -> None:
    queue(site)
    first = taken(ada)
    with pytest.raises(RefusedError, match="No task"):
        bob.late(first, [], seconds=1)
    ada.skip(first)
    second = taken(ada)
    assert is_gold(site, second)
    assert second.image.id != first.image.id
    with pytest.raises(RefusedError, match="obody else has") as refused:
        ada.late(first, [], seconds=1)
    assert refused.value.error == "not_late"
    assert is_gold(site, taken(bob))
    ada.submit(second, [], seconds=1)
    assert not is_gold(site, taken(ada))
    run = site.workspace.queue.get(first.id).run_id
    counts = site.workspace.queue.counts(run_id=str(run))
    assert (counts[TaskState.SKIPPED], counts[TaskState.SUBMITTED]) == (1, 1)
    assert site.workspace.queue.requeue(site.dataset_id) == 0


def test_events_for_annotators_say_only_whether_work_is_left(site: Site, ada: Client) -> None:
    queue(site)
    with served(site.workspace) as url:
        cookies = {COOKIE: str(ada.session)}
        with httpx.stream("GET", f"{url}/api/events", cookies=cookies, timeout=20) as stream:
            lines = stream.iter_lines()
            data = next(line for line in lines if line.startswith("data:"))
    counts = json.loads(data.removeprefix("data:"))
    assert counts["annotate"] == {"open": 1}


@pytest.mark.parametrize("rules", [{}])
def test_without_rules_nothing_is_gold(site: Site, ada: Client) -> None:
    queue(site)
    assert [is_gold(site, task) for task, _ in work(site, ada)] == [False] * ORDINARY
    assert site.workspace.catalog.gold.scores() == []


def test_where_there_are_gold_tasks_annotators_choose_nothing_and_see_no_counts(
    site: Site, ada: Client, rita: Client
) -> None:
    queue(site)
    since = utc_now()
    view = ada.work(since)
    assert not view.may_choose
    assert [(one.waiting, one.round) for one in view.datasets] == [(None, None)]
    for call in (lambda: ada.waiting("d"), lambda: ada.take(rita.waiting("d").tasks[0].task_id)):
        with pytest.raises(RefusedError) as refused:
            call()
        assert refused.value.error == "choice"
    gold = taken(ada)  # their first task is gold
    assert is_gold(site, gold)
    assert [task.state for task in ada.work(since).tasks] == ["held"]
    ada.release(gold)
    assert ada.work(since).tasks == []  # as an ordinary task that was given back
    again = taken(ada)
    ada.save_draft(again, 1, {"masks": []})
    ada.release(again)
    assert [task.state for task in ada.work(since).tasks] == ["begun"]
    ada.take(again.id)
    ada.submit(taken(ada), true_masks(site, again), seconds=9)
    assert ada.work(since).today.images == 1
    assert rita.work(since).may_choose
