"""Late work: how long an absent annotator keeps a task, and how late work is reviewed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.late import LateWork
from engine.annotation.schemas import NewVerdict, TaskView
from engine.core import rle as rle_codec
from flows.loop.advance import advance_dataset
from flows.operations import stale_runs
from flows.operations.erase import erase
from flows.workspace.workspace import Workspace
from storage import erasures
from storage.catalog import RunKind, RunState, TaskKind, TaskState, VerdictKind, utc_now
from tests.annotation.site import Site
from tests.annotation.test_tasks import ANNOTATE, decoded, new_mask, square, taken

AN_HOUR = timedelta(hours=1)
HOURS = timedelta(hours=3)
"""Longer than a draft keeps its task."""


def later(site: Site, passed: timedelta) -> None:
    """Let the leases expire that end within this time."""
    site.workspace.queue.expire(utc_now() + passed)


def lost_to(site: Site, loser: Client, winner: Client, kinds: list[TaskKind]) -> TaskView:
    """A task that one annotator began and another one got, as the first one's page holds it."""
    mine = taken(loser, kinds)
    loser.save_draft(mine, 1, {"masks": []})
    later(site, HOURS)
    assert taken(winner, kinds).id == mine.id
    return mine


def test_begun_work_keeps_its_task_longer_than_a_lease(
    site: Site, ada: Client, bob: Client
) -> None:
    site.annotate()
    begun = taken(ada)
    ada.save_draft(begun, 1, {"masks": ["half a mask"]})
    ada.heartbeat(begun)  # which is at least the time for drafts
    later(site, AN_HOUR)
    other = taken(bob)
    assert (other.image.id, taken(ada).id) == (site.image_ids[1], begun.id)
    later(site, AN_HOUR)  # no work on this one
    with site.client(str(bob._http.base_url), "cleo") as cleo:
        bob_again = taken(bob)
        assert (
            bob_again.id == other.id
        )  # first to its previous holder, whose browser may have work on it
        later(site, AN_HOUR)
        assert taken(cleo).id == other.id


@pytest.mark.parametrize(
    ("kind", "is_first"), [(TaskKind.ANNOTATE, True), (TaskKind.COMPLETE, False)]
)
def test_two_versions_of_a_task_are_both_kept_and_a_reviewer_picks(
    site: Site, ada: Client, bob: Client, rita: Client, kind: TaskKind, is_first: bool
) -> None:
    site.annotate() if kind == TaskKind.ANNOTATE else site.complete()
    mine = lost_to(site, ada, bob, [kind])
    theirs = taken(bob, [kind])
    rejected = [mask.mask_id for mask in mine.masks]
    drawn = new_mask("drawn", square(31))
    with pytest.raises(RefusedError, match="no longer yours"):
        ada.submit(mine, [drawn], seconds=3)

    def hand_in() -> None:
        bob.submit(theirs, [new_mask("other")], seconds=3, rejected=rejected[1:])

    if not is_first:
        hand_in()
    kept = ada.late(mine, [drawn], seconds=3, rejected=rejected)
    assert (kept.masks, kept.was_known) == (1, False)
    assert ada.late(mine, [drawn], seconds=3, rejected=rejected).was_known
    if is_first:
        assert rita.next_task([TaskKind.REVIEW]).task is None  # only one version exists so far
        hand_in()

    review = taken(rita, [TaskKind.REVIEW])
    assert "by ada and bob" in str(review.note)
    assert {mask.annotator for mask in review.masks} == {"ada", "bob"}
    late = next(mask for mask in review.masks if mask.annotator == "ada")
    assert (decoded(late.rle) == square(31)).all()
    rita.judge(
        review,
        [
            NewVerdict(
                mask_id=mask.mask_id,
                verdict=VerdictKind.ACCEPT if mask is late else VerdictKind.REJECT,
                seconds=1,
            )
            for mask in review.masks
        ],
    )
    run_id = late.mask_id.split("/")[0]
    catalog = site.workspace.catalog
    for _ in range(100):
        if catalog.runs.get(run_id).state == RunState.FINISHED:
            break
        rita.overview()
    (entered,) = site.workspace.masks.masks(run_id=run_id)
    assert (rle_codec.decode(entered.rle) == square(31)).all()
    assert (entered.annotator, entered.stage) == ("ada", mine.stage)
    assert catalog.verdicts.accepted_mask_ids(site.dataset_id) == {late.mask_id}
    assert len(catalog.verdicts.rejected_mask_ids(site.dataset_id)) == len(review.masks) - 1


def test_a_late_version_is_not_taken_for_a_run_that_was_broken_off(
    site: Site, ada: Client, bob: Client
) -> None:
    site.annotate()
    mine = lost_to(site, ada, bob, [TaskKind.ANNOTATE])
    ada.late(mine, [new_mask("drawn", square(31))], seconds=3)
    at_once = site.workspace.settings.model_copy(update={"outage_seconds": 0.0})
    workspace = Workspace(at_once)
    (late,) = workspace.catalog.runs.all(kind=RunKind.REVIEW, state=RunState.RUNNING, limit=10)
    silent = workspace.catalog.runs.silent(workspace.catalog.now())
    assert late.id in {run.id for run in silent}
    assert late.id not in {run.id for run in stale_runs.find(workspace).runs}


def test_work_is_late_only_where_somebody_else_has_the_task(
    site: Site, ada: Client, bob: Client
) -> None:
    site.annotate()
    mine = taken(ada, ANNOTATE)
    with pytest.raises(RefusedError) as refused:
        ada.late(mine, [new_mask()], seconds=1)
    assert refused.value.error == "not_late"
    ada.submit(mine, [new_mask()], seconds=1)
    same = bob.late(
        mine, [new_mask()], seconds=1
    )  # equal to the submitted version: nothing to select
    assert same.masks == 1
    assert site.workspace.queue.counts()[TaskState.OPEN] == 2


@pytest.mark.parametrize("who", ["whoever handed in", "advance"])
def test_a_late_version_is_reviewed_though_the_server_died_as_the_other_one_was_handed_in(
    site: Site, ada: Client, bob: Client, rita: Client, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    site.annotate()
    mine = lost_to(site, ada, bob, [TaskKind.ANNOTATE])
    theirs = taken(bob)
    ada.late(mine, [new_mask("drawn", square(31))], seconds=3)
    with monkeypatch.context() as patch:
        patch.setattr(LateWork, "queue_reviews", lambda self, task: None)
        bob.submit(theirs, [new_mask("other")], seconds=3)
    assert rita.next_task([TaskKind.REVIEW]).task is None
    for _ in range(2):
        if who == "advance":
            dataset = site.workspace.catalog.datasets.get("d")
            advance_dataset(site.workspace, dataset)
        else:
            assert bob.submit(theirs, [new_mask("other")], seconds=3).was_known
    assert len(taken(rita, [TaskKind.REVIEW]).masks) == 2


def test_a_late_version_of_an_erased_image_does_not_wait_for_ever(
    site: Site, ada: Client, bob: Client
) -> None:
    site.annotate()
    mine = lost_to(site, ada, bob, [TaskKind.ANNOTATE])
    ada.late(mine, [new_mask("drawn", square(31))], seconds=3)
    workspace = site.workspace
    later(site, HOURS)
    dataset = workspace.catalog.datasets.get("d")
    erase(workspace, erasures.of_images(workspace.catalog, dataset, [mine.image.id]))
    assert workspace.catalog.runs.all(kind=RunKind.REVIEW) == []
    assert list(workspace.objects.list("prefill/")) == []


def test_a_late_version_is_reviewed_though_the_name_of_who_made_it_was_erased(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    site.annotate()
    mine = lost_to(site, ada, bob, [TaskKind.ANNOTATE])
    ada.late(mine, [new_mask("drawn", square(31))], seconds=3)
    _erase(site, "ada")
    bob.submit(taken(bob), [new_mask("other")], seconds=3)
    _erase(site, "bob")  # while both versions wait for a reviewer
    review = taken(rita, [TaskKind.REVIEW])
    assert len(review.masks) == 2
    assert all(str(mask.annotator).startswith("erased-") for mask in review.masks)
    assert str(review.note).count("by erased-") == 1
    assert not {"ada", "bob"} & set(str(review.note).replace(":", " ").split())


def _erase(site: Site, name: str) -> None:
    person = site.workspace.catalog.annotators.find(name)
    assert person is not None
    erase(site.workspace, erasures.of_person(person))
