"""`dataengine up`: real PostgreSQL, SeaweedFS, Prefect, worker and page, the jobs that they
trigger, and the state after their end. The tests run in this order."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import httpx
import pytest

from engine.annotation.client import Client
from engine.annotation.schemas import NewMask, NewVerdict, Point
from engine.core.records import Source, Stage
from flows.cli.models import _promote
from flows.deploy.prefect_flows import advance_loop
from flows.loop.data_engine import data_engine
from flows.page.actions import WorkspaceActions
from flows.prefect_api import events
from flows.review.retrain_triggers import verdicts_since_retrain
from flows.review.review import queue_review, sample_masks, start_review
from flows.stages.fully_automatic import generate
from flows.workspace.settings import SERVICES_FILE
from flows.workspace.workspace import Workspace
from storage.catalog import (
    LoopState,
    PlannedRound,
    ReleaseState,
    RunKind,
    RunState,
    TaskKind,
    VerdictKind,
    new_id,
)
from tests.production.conftest import SPRUNG
from tests.production.running import Production, dataengine, processes_of, running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PEOPLES = PlannedRound(stage=Stage.ASSISTED_MANUAL, images=2, annotator="people")


def hand_in(production: Production, kind: TaskKind, verdicts: list[VerdictKind]) -> None:
    """Answer all tasks of a kind at the page: with the mask of one click, or with these verdicts in
    order."""
    left = list(verdicts)
    with Client(production.page) as somebody:
        while task := somebody.next_task([kind]).task:
            if kind == TaskKind.REVIEW:
                given = [
                    NewVerdict(mask_id=mask.mask_id, verdict=left.pop(0), seconds=1.0)
                    for mask in task.masks
                ]
                somebody.judge(task, given)
            else:
                x, y = task.image.width / 2, task.image.height / 2
                answer = somebody.predict(task, [Point(x=x, y=y, label=1)])
                rle = answer.candidates[answer.best].rle
                mask = NewMask(client_id="a", rle=rle, seconds=1.0, trajectory=[])
                somebody.submit(task, [mask], seconds=1.0)


def test_every_service_says_where_it_is_and_that_it_is_well(production: Production) -> None:
    assert list(production.services) == ["postgres", "s3", "prefect", "worker", "page"]
    assert {row["health"] for row in production.services.values()} == {"healthy"}
    assert all(Path(row["log"]).exists() for row in production.services.values())
    assert httpx.get(f"{production.api}/health").json() is True
    assert httpx.get(f"{production.page}api/me").status_code == 200


def test_images_and_masks_are_in_postgresql_and_s3(workspace: Workspace) -> None:
    assert workspace.settings.catalog_url.startswith("postgresql+psycopg://")
    assert workspace.settings.store_uri == "s3://dataengine"
    dataset = workspace.catalog.datasets.get("d")
    ids = [image.id for image in workspace.catalog.images.each(dataset.id)]
    assert len(ids) == 8
    figures = generate(str(workspace.settings.root), new_id(), "d", ids[:4])
    assert figures["images"] == 4
    assert workspace.masks.counts(("source",))[(str(Source.AUTOMATIC),)] >= figures["masks"] > 0
    assert not (workspace.settings.root / "catalog.db").exists()
    assert not (workspace.settings.root / "store").exists()


def test_the_keys_are_in_one_file_that_nobody_else_can_read(
    production: Production, workspace: Workspace
) -> None:
    file = production.root / SERVICES_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert workspace.settings.store.secret_key is not None
    secret = workspace.settings.store.secret_key.get_secret_value()
    assert secret in file.read_text()
    told = [production.root / "up.json", production.root / "up.log"]
    told += (production.root / ".services").glob("*.log")
    told += (production.root / ".services").glob("*.json")
    assert [path for path in told if secret in path.read_text()] == []


def test_a_second_up_and_a_move_back_are_refused(production: Production) -> None:
    again = dataengine(production.root, "up")
    assert again.returncode == 1
    assert "runs in" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_drained_round_starts_the_loops_next_step(
    production: Production, workspace: Workspace
) -> None:
    root = str(workspace.settings.root)
    dataset = workspace.catalog.datasets.get("d")
    data_engine(root, "d", [PEOPLES, PEOPLES], wait=False)
    loop = workspace.catalog.loops.latest(dataset.id)
    assert loop is not None
    first, second = workspace.catalog.rounds.for_loop(loop.id)
    assert (first.state, second.state) == ("opened", "planned")
    hand_in(production, TaskKind.ANNOTATE, [])

    def opened() -> bool:
        return workspace.catalog.rounds.get(second.id).state == "opened"

    until(opened, "the second round")
    until(lambda: production.triggered("advance-loop/tested"), "the flow run's end")
    assert [run["state"]["type"] for run in production.triggered("advance-loop/tested")] == [
        "COMPLETED"
    ]
    assert workspace.catalog.rounds.get(first.id).state == "done"


def test_accepted_and_rejected_masks_start_one_retrain(
    production: Production, workspace: Workspace
) -> None:
    dataset = workspace.catalog.datasets.get("d")
    job = start_review(workspace, "d", new_id())
    sample = sample_masks(workspace, "d", 2, 0, with_truth=False)
    queue_review(workspace, job, sample)
    count = sum(map(len, sample.values()))
    assert count >= 5
    accepted = [VerdictKind.ACCEPT] * (count - 2)
    hand_in(production, TaskKind.REVIEW, [*accepted, VerdictKind.REJECT, VerdictKind.REJECT])
    until(lambda: workspace.catalog.runs.get(job.run_id).state == RunState.FINISHED, "the review")

    def ended() -> bool:
        return len(production.triggered("retrain-dataset/tested")) == 2

    until(ended, "a flow run for each of the two reasons")
    runs = production.triggered("retrain-dataset/tested")
    assert {run["state"]["type"] for run in runs} == {"COMPLETED"}
    retrains = workspace.catalog.runs.all(dataset_id=dataset.id, kind=RunKind.RETRAIN)
    assert len(retrains) == 1
    assert verdicts_since_retrain(workspace, dataset).accepted == 0


def test_a_promoted_model_has_old_masks_compared(
    production: Production, workspace: Workspace
) -> None:
    dataset = workspace.catalog.datasets.get("d")
    versions = {model.version for model in workspace.catalog.models.all()} - {"lite"}
    before = workspace.current_model().version
    (version,) = versions
    if before == version:  # by the event of the retrain
        _promote(workspace, "lite")
    _promote(workspace, version)

    def compared() -> bool:
        reviews = workspace.catalog.runs.all(dataset_id=dataset.id, kind=RunKind.REVIEW)
        return any(run.config.get("rescore") and run.model == version for run in reviews)

    until(compared, "the comparison")
    until(lambda: production.triggered("rescore-masks/tested"), "the flow run's end")
    states = {run["state"]["type"] for run in production.triggered("rescore-masks/tested")}
    assert states == {"COMPLETED"}


def test_without_prefect_work_goes_on_and_advance_catches_up(
    production: Production, workspace: Workspace
) -> None:
    dataset = workspace.catalog.datasets.get("d")
    loop = workspace.catalog.loops.latest(dataset.id)
    assert loop is not None
    assert loop.state == LoopState.RUNNING
    before = len(production.runs("advance-loop/tested"))
    os.kill(production.services["prefect"]["process"], signal.SIGKILL)
    until(lambda: not answers(f"{production.api}/health"), "Prefect is down")
    assert not events.emit(workspace, events.MODEL_PROMOTED, {"version": "nobody's"})
    hand_in(production, TaskKind.ANNOTATE, [])
    assert httpx.get(f"{production.page}api/me").status_code == 200
    until(lambda: answers(f"{production.api}/health"), "Prefect is started again")
    assert len(production.runs("advance-loop/tested")) == before
    (row,) = advance_loop(str(workspace.settings.root), "d")
    assert row["loop"] == "finished"
    assert workspace.catalog.loops.get(loop.id).state == LoopState.FINISHED


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_button_of_the_page_has_the_work_pool_do_it(
    production: Production, workspace: Workspace
) -> None:
    actions = WorkspaceActions(workspace)
    planned = actions.plan("retrain", {}).command
    assert planned == "dataengine start retrain --dataset d --cancel"
    assert actions.plan("round", {}).command.startswith("dataengine run ")
    job = actions.start("release", {"name": "by-button"})
    until(lambda: actions.job(job.id).state != "running", "the job's end")
    done = actions.job(job.id)
    assert done.state == "done", done.log
    assert "release: Completed" in done.log
    assert workspace.catalog.releases.get("by-button").state == ReleaseState.DONE
    runs = production.runs("release-dataset/tested")
    assert [run["state"]["type"] for run in runs] == ["COMPLETED"]
    gone = dataengine(production.root, "start", "release", "--dataset", "none such")
    assert (gone.returncode, "none such" in gone.stderr) == (1, True)


def test_a_cron_schedule_has_made_masks(production: Production, workspace: Workspace) -> None:
    listed = json.loads(dataengine(production.root, "schedule", "list", "--json").stdout)
    assert [row["name"] for row in listed["schedules"]] == ["generate-d"]

    def ended() -> bool:
        runs = production.runs("generate-dataset/tested")
        return any(run["state"]["type"] == "COMPLETED" for run in runs)

    until(ended, "a scheduled run")
    paused = dataengine(production.root, "schedule", "pause", "generate-d")
    assert paused.returncode == 0
    stages = workspace.masks.counts(("stage", "run_id"))
    assert len({run for stage, run in stages if stage == str(Stage.FULLY_AUTOMATIC)}) >= 2


def test_a_module_in_the_workspace_was_imported_by_no_process(production: Production) -> None:
    """Neither services nor flow runs of a worker or a button are left."""
    assert (production.root / "prefect.py").exists()
    assert not (production.root / SPRUNG).exists()


def test_ctrl_c_ends_every_process_and_the_data_is_there_again(production: Production) -> None:
    assert len(processes_of(production.root)) >= 10
    production.end(signal.SIGINT)
    assert production.process.returncode == 0
    refused = dataengine(production.root, "up", "--without", "postgres", "--without", "s3")
    assert refused.returncode == 1
    assert "PostgreSQL" in refused.stderr
    with running(production.root, "--without", "page") as again:
        assert "page" not in again.services
        status = json.loads(dataengine(again.root, "status", "--json").stdout)
        assert status["datasets"]["d"]["images"] == 8
        assert status["masks"]["fully_automatic"] > 0
        listed = json.loads(dataengine(again.root, "schedule", "list", "--json").stdout)
        assert [row["active"] for row in listed["schedules"]] == [False]
        again.end(signal.SIGKILL)
