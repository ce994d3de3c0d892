"""The dashboard: what an admin sees and starts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import httpx
import pytest

from engine.annotation.access import COOKIE
from engine.annotation.actions import Values
from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.schemas import JobView
from engine.sam.checkpoint import shipped_path
from flows.data.import_model import import_model
from flows.operations.dashboard import WorkspaceReports, history
from flows.page.actions import ACTIONS, WorkspaceActions
from flows.page.background_commands import BackgroundCommand, commands_in, start_command, state_of
from storage.catalog import RunKind, TaskKind
from storage.catalog.erasing import forget_images
from storage.layout import RELEASE_FILES
from tests.annotation.site import Site
from tests.annotation.test_tasks import new_mask, taken


def ended(actions: WorkspaceActions, job: JobView, seconds: float = 180) -> JobView:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (found := actions.job(job.id)).state != "running":
            return found
        time.sleep(0.1)
    raise AssertionError(f"still running: {actions.job(job.id).log}")


# overview


def test_the_overview_shows_work_as_it_is_done(site: Site, ada: Client, rita: Client) -> None:
    site.annotate()
    ada.submit(taken(ada), [new_mask("a"), new_mask("b")], seconds=10)
    taken(ada)
    found = rita.overview()
    (dataset,) = found.datasets
    assert (dataset["images"], dataset["train"], dataset["masks"]) == (3, 3, 0)
    assert (dataset["annotated"], dataset["to_annotate"], dataset["masks_handed_in"]) == (1, 2, 2)
    assert (dataset["people_today"], dataset["masks_by_stage"]) == (1, {})
    assert {k: found.queue["annotate"][k] for k in ("open", "leased", "submitted")} == {
        "open": 1,
        "leased": 1,
        "submitted": 1,
    }
    row = next(row for row in found.annotators if row["name"] == "ada")
    assert (row["tasks"], row["masks"], row["seconds_per_mask"]) == (1, 2, 5.0)
    assert row["masks_per_hour"] == 720.0
    (hour,) = found.history
    assert (hour["tasks"], hour["masks_per_image"]) == (1, 2.0)
    (run,) = found.runs
    assert run["progress"] == pytest.approx(1 / 3)
    assert [model["version"] for model in found.models] == ["lite"]
    assert found.models[0]["miou_1_click"] > 0.5


def test_an_empty_workspace_has_an_empty_overview(tmp_path: Path) -> None:
    from tests.annotation.site import make_site

    site = make_site(tmp_path / "empty", images=0)
    found = WorkspaceReports(site.workspace).overview()
    assert found["loops"] == found["runs"] == found["history"] == []
    assert history([]) == []


def test_public_models_are_offered_until_any_model_was_imported(
    site: Site, rita: Client, tmp_path: Path
) -> None:
    offered = rita.overview().model_choices
    commands = [choice["command"] for choice in offered]
    assert commands == [
        "dataengine models pull mobile_sam --promote",
        "dataengine models pull vit_h --promote",
    ]
    import_model(site.workspace, shipped_path(), "cells")
    assert rita.overview().model_choices == []


def test_public_models_are_not_offered_where_another_model_is_current(
    site: Site, rita: Client
) -> None:
    models = site.workspace.catalog.models
    models.add("d-1", architecture="lite", key="models/d-1.safetensors", parent="lite")
    assert len(rita.overview().model_choices) == 2
    models.promote("d-1", expected_current="lite")
    assert rita.overview().model_choices == []


# events


def test_pages_hear_of_the_queue_as_it_changes(site: Site, url: str, ada: Client) -> None:
    cookies = {"dataengine_session": str(ada.session)}
    with httpx.stream("GET", f"{url}/api/events", cookies=cookies, timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: queue"
        assert '"open": 0' in next(lines)
        site.annotate()
        rest = [next(lines) for _ in range(3)]
    assert rest[1] == "event: queue"  # no other events: those are for reviewers
    assert '"annotate": {"open": 3' in rest[2]


# actions


def test_every_action_says_what_it_will_do_and_the_command_that_does_the_same(
    site: Site, adam: Client
) -> None:
    plans = {action.name: adam.plan(action.name) for action in adam.actions()}
    names = {"round", "retrain", "generate", "review", "advance", "rescore", "release"}
    names |= {"verifier-train", "verifier-route", "suggest", "program", "judge"}
    names |= {"judge-labels", "judge-missing", "caption"}
    assert set(plans) == set(ACTIONS) == names
    assert plans["generate"].command == "dataengine generate --only-new --dataset d"
    assert "3 of the 3 images of d that no such run has processed" in plans["generate"].text
    assert plans["advance"].command == "dataengine advance --dataset d"
    assert "(there are 0)" in plans["retrain"].text
    limited = adam.plan("generate", {"limit": "2"})
    assert (limited.command[-9:], "2 of the 3" in limited.text) == ("--limit 2", True)
    assert "--new" in adam.plan("round", {"new": True}).command
    site.workspace.catalog.datasets.get_or_create("e")
    assert " e-2" in adam.plan("release", {"dataset": "e"}).command
    assert " mine " in adam.plan("release", {"dataset": "e", "name": "mine"}).command


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("generate", {"dataset": "none such"}, "ingest"),
        ("generate", {"limit": -1}, "at least 1"),
        ("generate", {"limit": "many"}, "whole number"),
        ("generate", {"colour": "red"}, "no field"),
        ("verifier-route", {"precision": 2}, "95 percent is 0.95"),
        ("verifier-route", {"precision": "much"}, "a number"),
        ("release", {"name": "--help"}, "cannot be"),
        ("format-disk", {}, "No action"),
    ],
)
def test_wrong_values_start_nothing(
    site: Site, adam: Client, name: str, values: Values, message: str
) -> None:
    for call in (adam.plan, adam.start):
        with pytest.raises(RefusedError, match=message) as refused:
            call(name, values)
        assert refused.value.status in (404, 422)
    assert adam.jobs() == []


@pytest.mark.slow
def test_a_started_action_runs_to_its_end_with_its_log(site: Site, adam: Client) -> None:
    actions = WorkspaceActions(site.workspace)
    begun = adam.start("generate", {"limit": 1})
    with pytest.raises(RefusedError) as refused:
        adam.start("generate", {"limit": 1})
    assert refused.value.error == "running"
    done = ended(actions, begun, 120)
    assert done.state == "done", done.log
    assert "masks on 1 images" in done.log
    assert done.finished_at is not None
    assert done.finished_at >= done.started_at
    assert site.workspace.masks.counts(("image_id",), dataset="d")
    assert "2 of the 2 images of d that no such run has processed (3 in all)" in (
        adam.plan("generate").text
    )
    assert site.workspace.catalog.audit.latest(1)[0].detail["command"] == begun.command


@pytest.mark.slow
def test_what_fails_is_said_with_its_reason(site: Site, adam: Client) -> None:
    actions = WorkspaceActions(site.workspace)
    failed = ended(actions, adam.start("retrain"))
    assert failed.state == "failed"
    assert "no masks on training images" in failed.log


def test_a_killed_job_counts_as_failed(tmp_path: Path) -> None:
    job = BackgroundCommand(
        id="j", action="x", arguments=["--help"], started_at="2026-01-01T00:00:00+00:00"
    )
    start_command(tmp_path, job, tmp_path)
    os.kill(int((tmp_path / "j" / "process").read_text()), signal.SIGKILL)
    end = time.monotonic() + 10
    while state_of(tmp_path, job)[0] == "running" and time.monotonic() < end:
        time.sleep(0.05)
    assert state_of(tmp_path, job) == ("failed", None)
    assert commands_in(tmp_path) == [job]


def test_a_job_can_be_stopped_and_has_its_buttons_name(
    site: Site, adam: Client, rita: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(folder: Path, job: BackgroundCommand, root: Path) -> None:
        start_command(folder, replace(job, arguments=["annotate", "--port", "0"]), root)

    monkeypatch.setattr("flows.page.actions.start_command", endless)
    begun = adam.start("advance")
    assert (begun.title, begun.state) == ("Take the next step", "running")
    with pytest.raises(RefusedError, match="admin"):
        rita.stop(begun.id)
    actions = WorkspaceActions(site.workspace)
    adam.stop(begun.id)
    assert ended(actions, begun).state == "stopped"
    assert (
        adam.stop(begun.id).state == "stopped"
    )  # the second call changes nothing: the job has ended
    entry = site.workspace.catalog.audit.latest(1)[0]
    assert (entry.action, entry.subject) == ("stop", "advance")

    again = adam.retry(begun.id)
    assert (again.state, again.command) == ("running", adam.job(begun.id).command)
    assert again.id != begun.id
    for call in (adam.retry, rita.retry):
        with pytest.raises(RefusedError):  # it runs; a reviewer may not
            call(again.id)
    with pytest.raises(RefusedError, match="already running"):
        adam.retry(begun.id)
    adam.stop(again.id)
    assert ended(actions, again).state == "stopped"
    entry = site.workspace.catalog.audit.latest(2)[1]
    assert (entry.action, entry.subject) == ("retry", "advance")


def test_a_run_without_parts_tells_how_far_it_has_come(site: Site) -> None:
    runs = site.workspace.catalog.runs
    runs.start("t", RunKind.RETRAIN, dataset_id=site.dataset_id, model="lite")
    reports = WorkspaceReports(site.workspace)
    assert reports.overview()["runs"][0]["progress"] is None
    runs.set_progress("t", 0.4)
    assert reports.overview()["runs"][0]["progress"] == 0.4
    runs.finish("t", {"version": "d-1"})
    runs.set_progress("t", 0.5)  # too late: its result is kept
    assert runs.get("t").metrics == {"version": "d-1"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"id": "other"}'])
def test_a_job_that_cannot_be_read_does_not_hide_the_others(text: str, tmp_path: Path) -> None:
    job = BackgroundCommand(
        id="j", action="x", arguments=["--help"], started_at="2026-01-01T00:00:00+00:00"
    )
    for name, content in ((job.id, json.dumps(asdict(job))), ("torn", text)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(content)
    assert commands_in(tmp_path) == [job]


def test_a_job_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after some bytes of its file."""

    def torn(source: IO[bytes], target: IO[bytes]) -> None:
        target.write(source.read(5))
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(shutil, "copyfileobj", torn)
    job = BackgroundCommand(
        id="j", action="x", arguments=["--help"], started_at="2026-01-01T00:00:00+00:00"
    )
    with pytest.raises(OSError, match="no space"):
        start_command(tmp_path, job, tmp_path)
    assert list((tmp_path / "j").iterdir()) == []


def test_there_is_no_job_of_another_name(adam: Client) -> None:
    with pytest.raises(RefusedError) as refused:
        adam._send("GET", "/api/jobs/../../etc")
    assert refused.value.status == 404
    assert adam.next_task([TaskKind.REVIEW]).task is None


# files of releases


def released(site: Site, name: str = "d 1") -> None:
    """A finished release with a small file of each kind."""
    catalog, key = site.workspace.catalog, f"releases/{name}/abc"
    for file in RELEASE_FILES:
        site.workspace.objects.put(f"{key}/{file}", file.encode())
    catalog.releases.start(name, dataset_id=site.dataset_id, table_version=1, key=key)
    catalog.releases.finish(name, {"masks": 9, "images": 3})


def test_files_of_finished_releases_are_downloaded_by_those_who_see_the_dataset(
    site: Site, url: str, ada: Client, rita: Client, tmp_path: Path
) -> None:
    released(site)
    (row,) = rita.overview().releases
    assert row["files"] == list(RELEASE_FILES)
    for file in RELEASE_FILES:
        rita.download("d 1", file, tmp_path / file)
        assert (tmp_path / file).read_text() == file
    with pytest.raises(FileExistsError):
        rita.download("d 1", "sa1b.tar", tmp_path / "sa1b.tar")
    for name, file in (("d 1", "other"), ("d 2", "sa1b.tar"), ("d 1", "../x"), ("..", "sa1b.tar")):
        with pytest.raises(RefusedError) as refused:
            rita.download(name, file, tmp_path / "none")
        assert refused.value.status == 404
        assert not (tmp_path / "none").exists()
    with pytest.raises(RefusedError):
        ada.download("d 1", "sa1b.tar", tmp_path / "none")
    answer = httpx.get(f"{url}/api/releases/d%201/report.html", cookies={COOKIE: str(rita.session)})
    assert answer.headers["content-type"].startswith("text/html")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-disposition"].startswith("inline")
    person = site.workspace.catalog.annotators.find("rita")
    assert person is not None
    site.workspace.catalog.annotators.set_datasets(person.id, [])
    with pytest.raises(RefusedError):
        rita.download("d 1", "sa1b.tar", tmp_path / "none")


def test_a_release_that_is_not_finished_or_lost_images_offers_no_files(
    site: Site, rita: Client, tmp_path: Path
) -> None:
    catalog = site.workspace.catalog
    catalog.releases.start("b", dataset_id=site.dataset_id, table_version=1, key="releases/b")
    released(site, "c")
    forget_images(catalog, site.image_ids[:1], ["c"], [])
    assert [row["files"] for row in rita.overview().releases] == [[], []]
    with pytest.raises(RefusedError):
        rita.download("b", "sa1b.tar", tmp_path / "none")
