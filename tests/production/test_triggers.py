"""Deployments, schedules and triggers: the parts that need no services."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from engine.core.records import Source, Stage
from engine.core.rle import encode
from flows.cli import main
from flows.data.ingest import ingest_folder
from flows.deploy import prefect_flows
from flows.deploy.deployments import flow_of
from flows.deploy.jobs import JOBS, JobDefinition
from flows.prefect_api import events
from flows.prefect_api.client import UnreachableError, api_url, auth_string, login, using
from flows.review.rescore import rescore_dataset
from flows.services.definitions import prefect_auth, read_services_file, write_services_file
from flows.services.supervisor import check_fits
from flows.workspace.processes import python
from flows.workspace.run_lock import exclusive_run
from flows.workspace.settings import FILE_NAME, SERVICES_FILE, WorkspaceError, load_settings
from flows.workspace.workspace import Workspace
from storage.catalog import RunKind, RunState, TaskKind, TaskState
from tests.annotation.site import make_site
from tests.flows.conftest import make_workspace, write_scenes
from tests.production.running import until

YAML = Path(__file__).parents[2] / "infra" / "prefect.yaml"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A prepared workspace as the current folder, without a Prefect server."""
    workspace = make_workspace(tmp_path / "ws")
    monkeypatch.chdir(workspace.settings.root)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return workspace


def failure(*arguments: str) -> Exception:
    """The error message of a command."""
    result = CliRunner().invoke(main.app, list(arguments))
    assert isinstance(result.exception, Exception)
    return result.exception


def test_the_yaml_declares_what_deploy_makes() -> None:
    declared = {row["entrypoint"]: row for row in yaml.safe_load(YAML.read_text())["deployments"]}
    assert set(declared) == {job.entrypoint for job in JOBS.values()}
    for job in JOBS.values():
        triggers = [
            (row["expect"], row.get("parameters", {}), row["match"])
            for row in declared[job.entrypoint].get("triggers", [])
        ]
        resource = {"prefect.resource.id": "dataengine.workspace.dataengine"}
        assert triggers == [
            ([trigger.event], trigger.parameters, {**resource, **trigger.labels})
            for trigger in job.triggers
        ]


@pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))
def test_a_jobs_flow_takes_what_the_registry_says(job: JobDefinition) -> None:
    flow = flow_of(job)
    assert flow.name == job.flow_name
    own = dict(signature(flow.fn, eval_str=True).parameters)
    assert {*own} - {"workspace", "only_if_due"} == {*job.option_names}
    for option in job.options:
        assert own[option.name].default == option.default
        assert own[option.name].annotation in (option.kind, option.kind | None)
    if job.dataset != "none":
        assert (own["dataset"].default is None) == (job.dataset == "optional")


def test_without_a_server_the_error_says_where_to_get_one(empty: Workspace) -> None:
    for command in (
        ["deploy"],
        ["schedule", "list"],
        ["schedule", "advance", "--cron", "0 2 * * *"],
        ["schedule", "pause", "x"],
        ["start", "advance"],
    ):
        error = failure(*command)
        assert isinstance(error, UnreachableError)
        assert "dataengine up" in str(error)


def test_a_server_that_does_not_answer_is_said_in_one_line(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    error = failure("schedule", "list")
    assert isinstance(error, UnreachableError)
    assert "does not answer" in str(error)
    assert "\n" not in str(error)
    assert not events.emit(empty, events.MODEL_PROMOTED, {"version": "m"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrain"], "needs a --dataset"),
        (["sweep", "--limit", "3"], "has no --limit"),
        (["generate", "--dataset", "d", "--images", "3"], "has no --images"),
    ],
)
def test_a_start_with_wrong_options_says_which(
    empty: Workspace, arguments: list[str], message: str
) -> None:
    error = failure("start", *arguments)
    assert isinstance(error, WorkspaceError)
    assert message in str(error)


@pytest.mark.parametrize("cron", ["0 2 * *", "99 * * * *", "often", ""])
def test_a_wrong_cron_is_named(
    empty: Workspace, cron: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    error = failure("schedule", "advance", "--cron", cron)
    assert isinstance(error, WorkspaceError)
    assert repr(cron) in str(error)
    assert "\n" not in str(error)


def test_prefects_server_does_not_start_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    done = subprocess.run(
        python("flows.prefect_api.prefect_server"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "set PREFECT_SERVER_API_AUTH_STRING to user:password" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_login_of_up_goes_to_its_own_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    made_up = prefect_auth(tmp_path)
    assert prefect_auth(tmp_path) == made_up  # once
    assert auth_string(tmp_path) == made_up
    with using("http://127.0.0.1:9/api", ""):
        assert auth_string(tmp_path) == ""
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    assert login(tmp_path)["auth"] is None
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:word:of:mine")
    assert login(tmp_path)["auth"] == ("me", "word:of:mine")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "chosen:by the user")
    assert prefect_auth(tmp_path) == "chosen:by the user"


def test_what_up_leaves_behind_is_no_server(empty: Workspace) -> None:
    folder = empty.settings.root / ".services"
    folder.mkdir()
    (folder / "state.json").write_text('{"prefect_api_url": "http://127.0.0.1:9/api"}')
    (folder / "up.lock").touch()
    assert api_url(empty.settings.root) in (None, os.environ.get("PREFECT_API_URL"))


def test_a_workspace_with_data_is_not_moved_silently(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    check_fits(workspace.settings, frozenset())  # nothing in it yet
    scenes = write_scenes(tmp_path / "scenes", 1)
    ingest_folder(workspace, "d", scenes, None)
    with pytest.raises(WorkspaceError, match="--without postgres --without s3"):
        check_fits(workspace.settings, frozenset())
    with pytest.raises(WorkspaceError, match="images in its folder"):
        check_fits(workspace.settings, frozenset({"postgres"}))
    check_fits(workspace.settings, frozenset({"postgres", "s3"}))


def test_settings_of_the_services_come_after_the_users(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('[store]\nregion = "north"\n')
    (tmp_path / SERVICES_FILE).parent.mkdir()
    write_services_file(tmp_path, "postgresql+psycopg://there", ("http://s3", ("us", "hush-hush")))
    settings = load_settings(tmp_path)
    assert settings.catalog_url == "postgresql+psycopg://there"
    assert (settings.store.region, settings.store.endpoint_url) == ("north", "http://s3")
    assert "hush-hush" not in repr(settings)
    assert read_services_file(tmp_path)["store"]["secret_key"] == "hush-hush"


def test_of_two_that_would_train_one_does(empty: Workspace) -> None:
    dataset = empty.catalog.datasets.get_or_create("d")
    empty.catalog.runs.start("r", RunKind.RETRAIN, dataset_id=dataset.id)

    def fail() -> None:
        with exclusive_run(empty, "r") as is_to_train:
            assert is_to_train
            raise KeyError

    for _ in range(2):  # a failure releases it at once
        with pytest.raises(KeyError):
            fail()
    with exclusive_run(empty, "r") as is_to_train:
        assert is_to_train
    with exclusive_run(empty, "r") as is_to_train:
        assert not is_to_train


def has_ended(pid: int) -> bool:
    """Whether a process has ended, or is a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_a_guard_left_alone_ends_its_service_and_what_that_started(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
        "open(sys.argv[1], 'w').write(f'{child.pid} ')\n"
        "time.sleep(300)"
    )
    told, lock = tmp_path / "pid", tmp_path / "lock"
    command = [sys.executable, "-m", "flows.services.process_guard", str(lock), "SIGTERM", "-"]
    guard = subprocess.Popen(
        [*command, sys.executable, "-c", script, str(told)], stdin=subprocess.PIPE
    )
    until(lambda: told.exists() and told.read_text().endswith(" "), "the child")
    pid = int(told.read_text())
    began = time.monotonic()
    assert guard.stdin is not None
    guard.stdin.close()  # what the operating system does when the parent has ended
    assert guard.wait(timeout=120) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10
    until(lambda: has_ended(pid), "the child's end")


def test_a_guard_ends_with_its_service(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "flows.services.process_guard",
        str(tmp_path / "lock"),
        "SIGTERM",
        "-",
    ]
    guard = subprocess.Popen(
        [*command, sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"],
        stdin=subprocess.PIPE,
    )
    assert guard.wait(timeout=120) == 128 + signal.SIGKILL


@pytest.mark.slow
def test_masks_that_the_new_model_does_not_see_go_to_review(tmp_path: Path) -> None:
    site = make_site(tmp_path / "ws", images=2)
    workspace = site.workspace
    dataset = workspace.catalog.datasets.get("d")
    made: list[Any] = []
    for number, image_id in enumerate(site.image_ids):
        mask = site.masks_of(number)[0]
        y, x = (int(axis.mean()) for axis in mask.nonzero())
        for index in range(2):
            shape = mask.copy()
            if index:  # a frame around the image, which no model predicts
                shape[:], shape[:2], shape[-2:] = False, True, True
            rle = encode(shape)
            row = site.mask_rows(number, "old", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=1)[0]
            made.append(
                replace(
                    row,
                    mask_id=f"old/{image_id}/{index}",
                    model="older",
                    rle=rle,
                    area=int(shape.sum()),
                    box_xyxy=(0, 0, shape.shape[1], shape.shape[0]),
                    point_xy=(float(x), float(y)),
                )
            )
    site.start_run("old", RunKind.FULLY_AUTOMATIC)
    workspace.masks.commit(made, run_id="old", shard=0)
    found = rescore_dataset(workspace, dataset)
    assert found is not None
    assert (found.images, found.masks, found.queued) == (2, 4, 2)
    assert found.disagreements >= 2
    (run,) = workspace.catalog.runs.all(kind=RunKind.REVIEW)
    assert run.state == RunState.RUNNING
    assert workspace.queue.counts(run_id=run.id)[TaskState.OPEN] == 2
    queued = {id for task in _tasks(workspace) for id in task.payload["mask_ids"]}
    assert {f"old/{image_id}/1" for image_id in site.image_ids} <= queued
    assert rescore_dataset(workspace, dataset) is None
    assert workspace.queue.counts(run_id=run.id)[TaskState.OPEN] == 2


def _tasks(workspace: Workspace) -> list[Any]:
    return workspace.queue.upcoming(kinds=[TaskKind.REVIEW], limit=10)


def test_a_runs_log_says_how_far_it_has_come_from_any_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefect_flows, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr(prefect_flows, "LOG_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "run")
    log = prefect_flows.RunLog()
    monkeypatch.setattr(prefect_flows, "get_run_logger", None)  # a thread without a run has no id
    with log.track("generate", 4, "image") as advance, ThreadPoolExecutor(1) as pool:
        advance(1)
        with log.track("shard 3", 2, "image") as inner, log.track("x", 9, "byte") as other:
            pool.submit(inner, 2).result()
            other(5)
        pool.submit(log.say, "[yellow]late[/yellow]").result()
    told = [record.message.partition(",")[0] for record in caplog.records]
    assert told == [
        "generate: 4 images",
        "generate: 1 of 4 images",
        "generate: 3 of 4 images",
        "late",
    ]
