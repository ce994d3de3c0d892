"""Browse over real HTTP: what is sent to people or deleted, histories, and own work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from engine.annotation.client import Client
from engine.annotation.schemas import NewMask, TaskView
from engine.core.records import Source, Stage
from flows.stages.commit_answers import commit_answers
from flows.stages.run_context import RunContext
from storage.catalog import RunKind, TaskKind, TaskState
from tests.annotation.site import Site
from tests.annotation.test_browse import current, everything, get, named, refusal, send
from tests.annotation.test_tasks import new_mask, square


def taken(client: Client, *kinds: TaskKind) -> TaskView:
    task = client.next_task(kinds or [TaskKind.ANNOTATE, TaskKind.COMPLETE]).task
    assert task is not None
    return task


def wait_for(call: Callable[[], list[Any]], length: int) -> list[Any]:
    """The run's end is in a thread of the server."""
    end = time.monotonic() + 20
    while len(found := call()) < length:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def committed(site: Site) -> list[str]:
    """Ids of automatic masks of all images."""
    masks = [
        mask
        for number in range(len(site.image_ids))
        for mask in site.mask_rows(number, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
    ]
    site.start_run("made", RunKind.FULLY_AUTOMATIC)
    site.workspace.masks.commit(masks, run_id="made", shard=0)
    return [mask.mask_id for mask in masks]


def test_masks_that_are_sent_to_review_wait_there_once(site: Site, rita: Client) -> None:
    ids = committed(site)
    chosen = [ids[0], ids[1], ids[4]]
    assert send(rita, "review", mask_ids=chosen) == {"tasks": 2, "chosen": 3, "left_out": 0}
    again = send(rita, "review", mask_ids=[*chosen, ids[8], "made/none"])
    assert again == {"tasks": 1, "chosen": 1, "left_out": 4}
    found = refusal(lambda: send(rita, "review", mask_ids=chosen))
    assert (found.status, found.error) == (409, "nothing_chosen")
    task = taken(rita, TaskKind.REVIEW)
    assert [mask.mask_id for mask in task.masks] == ids[:2]
    assert (task.stage, task.model) == (Stage.FULLY_AUTOMATIC, "lite")


def test_deleted_masks_are_rejected_and_stay_in_the_table(site: Site, rita: Client) -> None:
    ids = committed(site)
    chosen = [ids[0], ids[1], ids[5]]
    assert send(rita, "reject", mask_ids=chosen) == {"tasks": 2, "chosen": 3, "left_out": 0}
    verdicts = site.workspace.catalog.verdicts
    wait_for(lambda: sorted(verdicts.rejected_mask_ids(site.dataset_id)), 3)
    assert verdicts.rejected_mask_ids(site.dataset_id) == set(chosen)
    page = get(rita, "masks", verdict="reject")
    assert set(named(page)) == set(chosen)
    assert len(everything(site)) == len(ids)
    (one,) = verdicts.on_image(site.image_ids[1])
    assert one.reason == "deleted while browsing"
    found = refusal(lambda: send(rita, "reject", mask_ids=chosen))
    assert (found.status, found.error) == (409, "nothing_chosen")
    assert rita.next_task([TaskKind.REVIEW]).task is None


def test_images_that_are_sent_to_annotators_come_with_their_masks(
    site: Site, ada: Client, rita: Client
) -> None:
    ids = committed(site)[:3]
    sent = send(rita, "annotate", image_ids=[site.image_ids[0]])
    assert sent == {"tasks": 1, "chosen": 1, "left_out": 0}
    both = send(rita, "annotate", image_ids=site.image_ids[:2])
    assert both == {"tasks": 1, "chosen": 1, "left_out": 1}
    task = taken(ada)
    assert task.kind == TaskKind.COMPLETE
    assert [mask.mask_id for mask in task.masks] == ids
    missed: list[NewMask] = [new_mask("missed")]
    ada.submit(task, missed, rejected=[ids[2]], seconds=4)
    other = taken(ada)
    ada.submit(other, [], seconds=1)
    wait_for(lambda: [m for m in current(site) if m.annotator == "ada"], 1)
    verdicts = site.workspace.catalog.verdicts
    wait_for(lambda: sorted(verdicts.rejected_mask_ids(site.dataset_id)), 1)
    assert verdicts.rejected_mask_ids(site.dataset_id) == {ids[2]}
    assert len(everything(site)) == 10  # those that were kept are there once
    again = send(rita, "annotate", image_ids=[site.image_ids[0]])
    assert again["tasks"] == 1
    assert ids[2] not in [mask.mask_id for mask in taken(ada).masks]
    counts = site.workspace.queue.counts()
    assert counts[TaskState.SUBMITTED] == 2


def test_commands_take_only_what_the_dataset_has(site: Site, rita: Client) -> None:
    committed(site)
    for path in ("review", "reject"):
        assert refusal(lambda: send(rita, path, mask_ids=["none"])).status == 409  # noqa: B023
        assert refusal(lambda: send(rita, path, mask_ids=[])).status == 422  # noqa: B023
        many = ["m"] * 501
        assert refusal(lambda: send(rita, path, mask_ids=many)).status == 422  # noqa: B023
    for image_ids in ([2**40], [0], [2**63], []):
        found = refusal(lambda: send(rita, "annotate", image_ids=image_ids))  # noqa: B023
        assert found.status == (404 if image_ids == [2**40] else 422)


def test_the_history_of_a_mask_names_who_made_judged_and_replaced_it(
    site: Site, ada: Client, rita: Client
) -> None:
    site.annotate()
    for _ in site.image_ids:
        task = ada.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        ada.submit(task, [new_mask()], seconds=3)
    context = RunContext(
        run_id="annotate",
        dataset="d",
        dataset_id=site.dataset_id,
        stage=Stage.ASSISTED_MANUAL,
        round=1,
        model="lite",
    )
    commit_answers(site.workspace, context)
    image_id = site.image_ids[0]
    (mask,) = get(rita, f"images/{image_id}")["masks"]
    assert (mask["annotator"], mask["source"], mask["supersedes"]) == ("ada", "annotator", None)
    assert [step["kind"] for step in mask["steps"]] == ["click", "brush"]
    assert (mask["steps"][0]["x"], mask["steps"][0]["label"]) == (40.0, 1)
    sent = send(rita, "annotate", image_ids=[image_id])
    assert (sent["tasks"], sent["left_out"]) == (1, 0)
    work = taken(ada)
    assert [one.mask_id for one in work.masks] == [mask["mask_id"]]
    fix = new_mask("better", square(30), replaces=mask["mask_id"])
    ada.submit(work, [fix, new_mask("missed", square(6))], seconds=4)
    old, *newer = wait_for(lambda: get(rita, f"images/{image_id}")["masks"], 3)
    assert [one["verdict"] for one in old["verdicts"]] == ["fix"]
    assert old["verdicts"][0]["annotator"] == "ada"
    replaced = {one["supersedes"]: one["mask_id"] for one in newer}
    assert replaced[mask["mask_id"]] == old["superseded_by"][0]
    stages = {one["supersedes"]: one["stage"] for one in newer}
    assert stages == {mask["mask_id"]: "assisted_manual", None: "semi_automatic"}
    assert get(rita, "masks")["total"] == len(site.image_ids) + 1


# own work


def submitted(client: Client, *masks: NewMask) -> TaskView:
    task = taken(client)
    client.submit(task, list(masks), rejected=[m.mask_id for m in task.masks[2:]], seconds=7.5)
    return task


def test_an_annotator_sees_their_own_finished_work_only(
    site: Site, url: str, ada: Client, bob: Client
) -> None:
    site.annotate()
    mine, other = submitted(ada, new_mask()), submitted(ada)
    theirs = submitted(bob, new_mask())
    found = ada._send("GET", "/api/browse/finished").json()
    assert [task["task_id"] for task in found["tasks"]] == [other.id, mine.id]
    assert (found["total"], found["tasks"][1]["masks"], found["tasks"][1]["seconds"]) == (2, 1, 7.5)
    page = ada._send("GET", "/api/browse/finished?offset=1&limit=1").json()
    assert [task["task_id"] for task in page["tasks"]] == [mine.id]
    work = ada._send("GET", f"/api/browse/finished/{mine.id}").json()
    (mask,) = work["masks"]
    assert [step["kind"] for step in mask["steps"]] == ["click", "brush"]
    assert (
        ada._send("GET", f"/api/browse/images/{mine.image.id}/thumbnail").content[:2] == b"\xff\xd8"
    )
    for path in (f"finished/{theirs.id}", f"images/{theirs.image.id}/thumbnail"):
        assert refusal(lambda: ada._send("GET", f"/api/browse/{path}")).status == 404  # noqa: B023
    reopen = f"/api/browse/finished/{theirs.id}/reopen"
    assert refusal(lambda: ada._send("POST", reopen)).status == 404
    person = site.workspace.catalog.annotators.find("ada")
    assert person is not None
    site.workspace.catalog.annotators.set_datasets(person.id, [])
    assert ada._send("GET", "/api/browse/finished").json() == {"total": 0, "tasks": []}
    for path in (f"finished/{mine.id}", f"images/{mine.image.id}/thumbnail"):
        assert refusal(lambda: ada._send("GET", f"/api/browse/{path}")).status == 404  # noqa: B023


def test_a_task_is_reopened_with_what_was_submitted_until_its_round_is_complete(
    site: Site, ada: Client, bob: Client
) -> None:
    site.complete()
    task = submitted(ada, new_mask("extra"), new_mask("fixed", square(9), replaces="complete/1/0"))
    assert ada._send("GET", "/api/browse/finished").json()["tasks"][0]["can_reopen"]
    ada._send("POST", f"/api/browse/finished/{task.id}/reopen")
    again = taken(ada)
    assert again.id == task.id
    assert again.lease_id != task.lease_id
    former = again.former
    assert former is not None
    assert [mask.client_id for mask in former.masks] == ["extra", "fixed"]
    assert former.masks[0].rle == new_mask().rle
    assert [event.kind for event in former.masks[0].trajectory] == ["click", "brush"]
    assert former.masks[0].trajectory[1].path == [(30.0, 10.0), (35.0, 12.0)]
    assert former.rejected == [task.masks[0].mask_id, task.masks[2].mask_id]
    assert former.seconds == 7.5
    ada.submit(again, former.masks[:1], rejected=former.rejected, seconds=9)
    result = site.workspace.queue.get(task.id)
    assert (result.state, result.result.made, result.result.seconds) == ("submitted", 1, 9.0)
    ada._send("POST", f"/api/browse/finished/{task.id}/reopen")
    ada.release(taken(ada))
    assert site.workspace.queue.get(task.id).state == TaskState.SUBMITTED
    for _ in site.image_ids[1:]:
        submitted(bob)
    found = refusal(lambda: ada._send("POST", f"/api/browse/finished/{task.id}/reopen"))
    assert (found.status, found.error) == (409, "complete")
    assert not ada._send("GET", "/api/browse/finished").json()["tasks"][0]["can_reopen"]
