"""Comments, and images that a reviewer returns to the annotator who made their masks."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import pytest

from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.schemas import NewVerdict, TaskView
from engine.core.records import Source, Stage
from flows.operations.backup import backup_catalog
from flows.operations.erase import erase
from flows.review.review import finish_if_submitted
from storage import erasures
from storage.catalog import (
    AnnotatorKind,
    Catalog,
    NewTask,
    RunKind,
    RunState,
    TaskKind,
    TaskResult,
    VerdictKind,
)
from storage.catalog.backup import restore_backup
from storage.catalog.comments import MAX_COMMENTS
from storage.catalog.sessions import sqlite_url
from storage.catalog.thread_tables import CommentRow
from storage.masks import write_parquet
from tests.annotation.site import Site
from tests.annotation.test_tasks import new_mask, square, taken

REVIEW = [TaskKind.REVIEW]
COMPLETE = [TaskKind.COMPLETE]
HOSTILE = "<img src=x onerror=alert(1)> \u202e‮ '; DROP TABLE comments; -- \n& ada"


def review_of(site: Site, author: str, kind: AnnotatorKind = AnnotatorKind.PERSON) -> list[str]:
    """Queue the first image's masks, made by this annotator, for review; returns their ids."""
    site.workspace.catalog.annotators.get_or_create(author, kind=kind)
    site.start_run("made", RunKind.ASSISTED_MANUAL)
    rows = site.mask_rows(0, "made", Source.ANNOTATOR, Stage.ASSISTED_MANUAL)
    rows = [replace(row, annotator=author) for row in rows]
    site.workspace.masks.commit(rows, run_id="made", shard=0)
    site.start_run("review", RunKind.REVIEW)
    names = [row.mask_id for row in rows]
    task = NewTask(
        dataset_id=site.dataset_id,
        image_id=site.image_ids[0],
        kind=TaskKind.REVIEW,
        run_id="review",
        payload={"mask_ids": names},
    )
    site.workspace.queue.add([task])
    return names


def returned(rita: Client, text: str = "the wheel is missing") -> TaskView:
    """The review task that a reviewer has commented and returned."""
    task = taken(rita, REVIEW)
    rita.comment(task, text, x=12.5, y=30.0, mask_id=task.masks[0].mask_id)
    rita.give_back(task)
    return task


def arrived(client: Client, kinds: list[TaskKind]) -> TaskView:
    """The next task, which a thread of the server queues."""
    for _ in range(200):
        if (task := client.next_task(kinds).task) is not None:
            return task
        time.sleep(0.05)
    raise AssertionError(f"no task of {kinds}")


def accepted(client: Client, task: TaskView) -> None:
    accept = VerdictKind.ACCEPT
    verdicts = [NewVerdict(mask_id=m.mask_id, verdict=accept, seconds=1.0) for m in task.masks]
    client.judge(task, verdicts)


def finished(site: Site, run_id: str) -> bool:
    for _ in range(200):
        if site.workspace.catalog.runs.get(run_id).state == RunState.FINISHED:
            return True
        time.sleep(0.05)
    return False


def refused(call: object, *arguments: object, **more: object) -> RefusedError:
    with pytest.raises(RefusedError) as error:
        call(*arguments, **more)  # type: ignore[operator]
    return error.value


def test_a_returned_image_is_corrected_by_its_annotator_and_judged_again_by_its_reviewer(
    site: Site, ada: Client, bob: Client, rita: Client, adam: Client
) -> None:
    names = review_of(site, "ada")
    review = returned(rita)
    assert bob.next_task(COMPLETE).task is None, "it is reserved for ada"
    mine = taken(ada, COMPLETE)
    assert [mask.mask_id for mask in mine.masks] == names
    (first,) = ada.comments(mine.image.id)
    assert (first.author, first.text, first.is_mine) == ("rita", "the wheel is missing", False)
    assert (first.x, first.y, first.mask_id, first.task_id) == (12.5, 30.0, names[0], review.id)
    ada.comment(mine, "added; the shadow is gone")
    fix = new_mask("better", square(25), replaces=names[0])
    ada.submit(mine, [fix, new_mask("wheel", square(9))], seconds=9.0, rejected=[names[1]])

    again = arrived(rita, REVIEW)
    assert adam.next_task(REVIEW).task is None, "it is reserved for rita"
    better, kept, wheel = (mask.mask_id for mask in again.masks)
    assert kept == names[2]
    assert better.endswith("better")
    assert wheel.endswith("wheel")
    assert "came back" in str(again.note)
    thread = rita.comments(again.image.id)
    assert [(one.author, one.resolved_at) for one in thread] == [("rita", None), ("ada", None)]
    accepted(rita, again)
    assert finished(site, str(site.workspace.queue.get(again.id).run_id))
    assert all(one.resolved_at is not None for one in rita.comments(again.image.id))

    current = list(site.workspace.masks.masks(image_ids=[again.image.id], current_only=True))
    assert {mask.mask_id for mask in current} == {better, kept, names[1], wheel}
    made = {mask.mask_id: mask for mask in current}
    assert (made[better].annotator, made[better].stage) == ("ada", Stage.ASSISTED_MANUAL)
    verdicts = site.workspace.catalog.verdicts
    assert verdicts.rejected_mask_ids(site.dataset_id) == {names[1]}
    assert verdicts.accepted_mask_ids(site.dataset_id) == {better, kept, wheel}


def test_an_answer_without_a_correction_brings_the_same_masks_back(
    site: Site, ada: Client, rita: Client
) -> None:
    names = review_of(site, "ada")
    returned(rita)
    mine = taken(ada, COMPLETE)
    ada.comment(mine, "there is no wheel")
    ada.submit(mine, [], seconds=2.0)
    again = arrived(rita, REVIEW)
    assert [mask.mask_id for mask in again.masks] == names
    rita.comment(again, "there is", x=1, y=1)
    rita.give_back(again)  # as often as needed
    assert len(ada.comments(taken(ada, COMPLETE).image.id)) == 3


def test_a_killed_server_loses_no_return(site: Site, ada: Client, rita: Client) -> None:
    """The review is submitted and the correction is not queued yet."""
    review_of(site, "ada")
    task = taken(rita, REVIEW)
    rita.comment(task, "the wheel", x=1, y=1)
    key = "annotations/review/x.parquet"
    site.workspace.objects.put(key, write_parquet([]))
    site.workspace.queue.submit(task.id, task.lease_id, key, TaskResult(returned=True))
    assert ada.next_task(COMPLETE).task is None
    finish_if_submitted(site.workspace, "review")
    finish_if_submitted(site.workspace, "review")
    assert len(taken(ada, COMPLETE).masks) == 3


@pytest.mark.parametrize("how", ["simulated", "erased", "signed out for long", "other datasets"])
def test_where_the_annotator_is_gone_everybody_may_take_it(
    site: Site, bob: Client, rita: Client, how: str
) -> None:
    catalog = site.workspace.catalog
    kind = AnnotatorKind.SIMULATED if how == "simulated" else AnnotatorKind.PERSON
    review_of(site, "cleo", kind)
    cleo = catalog.annotators.find("cleo")
    assert cleo is not None
    if how != "signed out for long":
        catalog.sign_ins.start(cleo.id, "hash", 1e6)
    if how == "other datasets":
        catalog.annotators.set_datasets(cleo.id, [])
    if how == "erased":
        erase(site.workspace, erasures.of_person(cleo))
    returned(rita)
    assert taken(bob, COMPLETE).masks


def test_a_task_that_waits_for_somebody_who_leaves_is_freed(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    review_of(site, "ada")
    returned(rita)
    assert bob.next_task(COMPLETE).task is None
    ada._send("POST", "/api/sign-out", {})
    assert taken(bob, COMPLETE).masks, "ada has submitted nothing lately"


def test_a_skipped_return_is_for_everybody(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    review_of(site, "ada")
    returned(rita)
    ada.skip(taken(ada, COMPLETE))
    assert taken(bob, COMPLETE).masks


def test_a_thread_is_for_reviewers_and_for_those_who_worked_on_the_image(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    review_of(site, "ada")
    image = returned(rita).image.id
    assert rita.comments(image)
    for client in (ada, bob):
        assert refused(client.comments, image).status == 404
    task = taken(ada, COMPLETE)
    assert ada.comments(image)
    ada.submit(task, [], seconds=1.0)
    assert ada.comments(image), "she has worked on it"
    person = site.workspace.catalog.annotators.find("ada")
    assert person is not None
    site.workspace.catalog.annotators.set_datasets(person.id, [])
    assert refused(ada.comments, image).status == 404
    assert refused(rita.comments, 2**40).message == f"You have no image {2**40}."


def test_a_comment_is_plain_text_of_limited_length_at_a_place_of_the_image(
    site: Site, ada: Client, rita: Client
) -> None:
    review_of(site, "ada")
    task = taken(rita, REVIEW)
    assert rita.comment(task, f"  {HOSTILE}\t ").text == HOSTILE
    for text in ("", " \n ", "a\x00b", "a\x1bb", "x" * 2001):
        assert refused(rita.comment, task, text).status == 422, repr(text)
    for place in ({"x": 1.0}, {"x": -1.0, "y": 1.0}, {"x": 224.0, "y": 1.0}, {"mask_id": "made/9"}):
        assert refused(rita.comment, task, "here", **place).status == 422, place
    assert refused(ada.comment, task, "not mine").status == 409
    catalog = site.workspace.catalog
    (one,) = catalog.comments.of_image(task.image.id)
    more = {key: value for key, value in asdict(one).items() if key != "id"}
    catalog.insert(CommentRow, [more] * (MAX_COMMENTS - 1))
    assert refused(rita.comment, task, "one more").error == "comment_quota"


def test_a_return_needs_a_comment_and_masks_of_one_version(
    site: Site, ada: Client, rita: Client
) -> None:
    review_of(site, "ada")
    task = taken(rita, REVIEW)
    assert "first pin a comment" in refused(rita.give_back, task).message.lower()
    assert refused(ada.give_back, task).status == 403
    rita.comment(task, "look", x=1, y=1)
    rita.give_back(task)
    assert rita.give_back(task).was_known
    mine = taken(ada, COMPLETE)
    assert refused(ada.late, mine, [], seconds=1.0).error == "not_late"


def test_comments_are_erased_with_images_and_names_and_backed_up(
    site: Site, ada: Client, rita: Client
) -> None:
    review_of(site, "ada")
    task = returned(rita, "ada, look here: ada!")
    workspace, root = site.workspace, site.workspace.settings.root
    backup_catalog(workspace.settings.catalog_url, root / "b.backup")
    copy = Catalog(sqlite_url(root / "copy.db"))
    restore_backup(copy.engine, root / "b.backup")
    assert copy.comments.of_image(task.image.id)[0].text == "ada, look here: ada!"
    copy.close()
    person = workspace.catalog.annotators.find("ada")
    assert person is not None
    erase(workspace, erasures.of_person(person))
    (comment,) = workspace.catalog.comments.of_image(task.image.id)
    assert "ada" not in comment.text
    dataset = workspace.catalog.datasets.get("d")
    erase(workspace, erasures.of_images(workspace.catalog, dataset, [task.image.id]))
    assert workspace.catalog.comments.of_image(task.image.id) == []
