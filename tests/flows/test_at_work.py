"""Leases and heartbeats tell whether a process works on a run: a killed run stays `running`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from flows.operations.compact import compact_workspace
from flows.review.retrain_triggers import verdicts_since_retrain
from flows.workspace.run_lock import at_work
from storage.catalog import NewVerdict, RunKind, TaskKind, VerdictKind
from tests.annotation.site import Site, make_site

ALIVE, DEAD = 0, 3600
"""Seconds since the run's lease was renewed."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("DATAENGINE_OUTAGE_SECONDS", "0")
    monkeypatch.setenv("DATAENGINE_OPERATIONS__VACUUM_DAYS", "0")
    site = make_site(tmp_path / "ws", images=2, size=(64, 96))
    site.review()
    return site


def _begin(site: Site, kind: RunKind, silent: int) -> None:
    """A started run whose last heartbeat is this old."""
    shards, now = site.workspace.catalog.shards, site.workspace.catalog.now()
    site.start_run("run", kind)
    shards.plan("run", [[]])
    shards.lease("run", "me", 60, now=now - timedelta(seconds=silent))


@pytest.mark.parametrize(("silent", "accepted"), [(ALIVE, 0), (DEAD, 1)])
def test_a_killed_retrain_is_due_again_for_the_verdicts_that_started_it(
    site: Site, silent: int, accepted: int
) -> None:
    catalog = site.workspace.catalog
    person = catalog.annotators.get_or_create("rita")
    task = site.workspace.queue.lease(person.id, kinds=[TaskKind.REVIEW])
    assert task is not None
    verdict = NewVerdict(
        mask_id=task.payload["mask_ids"][0],
        task_id=task.id,
        verdict=VerdictKind.ACCEPT,
        annotator_id=person.id,
        seconds=1.0,
    )
    catalog.verdicts.add_many([verdict])
    _begin(site, RunKind.RETRAIN, silent)
    found = verdicts_since_retrain(site.workspace, catalog.datasets.get("d"))
    assert found.accepted == accepted


@pytest.mark.parametrize("kind", [RunKind.RETRAIN, RunKind.RELEASE])
@pytest.mark.parametrize(("silent", "vacuumed"), [(ALIVE, 0), (DEAD, 2)])
def test_dead_runs_do_not_hold_vacuum_back(
    site: Site, kind: RunKind, silent: int, vacuumed: int
) -> None:
    settings = site.workspace.settings
    at_once = settings.operations.model_copy(update={"vacuum_days": 0.0})  # not an hour, its least
    site.workspace.settings = settings.model_copy(update={"operations": at_once})
    _begin(site, kind, silent)
    rows = site.workspace.masks.masks(run_id="made", image_ids=site.image_ids[:1])
    again = [replace(row, mask_id=f"more/{row.mask_id}", run_id="more") for row in rows]
    site.workspace.masks.commit(again, run_id="more", shard=0)
    assert at_work(site.workspace, site.workspace.catalog.runs.get("run")) == (silent == ALIVE)
    assert compact_workspace(site.workspace)["masks"]["vacuumed"] == vacuumed
