"""Logs for people and machines, without secrets; no secret in tables or reports."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.logging.configuration import setup_logging

from flows.operations.doctor import check_workspace
from flows.operations.prometheus import WorkspaceCollector
from flows.operations.status import status_of
from flows.release.report_data import write_report
from flows.workspace import logs
from flows.workspace.logs import bound, configure, masked, secrets_of
from flows.workspace.settings import FILE_NAME, Settings, WorkspaceError, load_settings
from flows.workspace.workspace import open_workspace
from storage.catalog import RunKind
from tests.annotation.site import make_site
from tests.flows.test_secrets import tables_of
from tests.postgres import running_postgres

SECRET = "hunter2-päss/wörd+"
PASSWORD = "pläntëd:pass"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, names = list(root.handlers), ("flows", "engine", "storage", "dataengine")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _settings(log: str = "json", **changes: Any) -> Settings:
    return Settings.model_validate({"log": log, **changes})


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_message_and_ids() -> None:
    stream = io.StringIO()
    configure(_settings(), stream)
    with bound(run_id="r", shard=3):
        logging.getLogger("flows.x").info("made %d masks", 5, extra={"images": 2, "shard": 4})
    logging.getLogger("flows.x").warning("later")
    first, second = _lines(stream)
    assert first.pop("at").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "flows.x",
        "message": "made 5 masks",
        "run_id": "r",
        "shard": 4,
        "images": 2,
    }
    assert second.keys() == {"at", "level", "logger", "message"}


def test_an_error_comes_with_its_trace_on_one_line() -> None:
    stream = io.StringIO()
    configure(_settings(), stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("flows.x").exception("failed")
    (line,) = _lines(stream)
    assert "ValueError: two\nlines" in line["error"]


def test_people_get_plain_lines_and_only_what_matters() -> None:
    stream = io.StringIO()
    configure(_settings("text"), stream)
    logging.getLogger("flows.x").info("a shard is done")
    logging.getLogger("flows.x").warning("odd", extra={"run_id": "r"})
    assert stream.getvalue() == "warning flows.x: odd (run_id=r)\n"


def test_setting_it_up_again_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(_settings(), first)
    configure(_settings(), second)
    logging.getLogger("flows.x").info("once")
    assert not first.getvalue()
    assert len(_lines(second)) == 1


def test_ids_belong_to_their_thread() -> None:
    stream = io.StringIO()
    configure(_settings(), stream)
    with bound(run_id="mine"):
        other = threading.Thread(target=lambda: logging.getLogger("flows.x").info("theirs"))
        other.start()
        other.join()
    (line,) = _lines(stream)
    assert "run_id" not in line


def test_secrets_are_blotted_out_wherever_they_stand() -> None:
    url = "postgresql+psycopg://me:pl%C3%A4nt%40%3A@db.example/x"
    settings = _settings(
        store={"access_key": "AKIA1234", "secret_key": SECRET},
        database_url=url,
        operations={"metrics_token": 'with "quotes"'},
    )
    hidden = secrets_of(settings)
    assert {SECRET, "plänt@:", "pl%C3%A4nt%40%3A", 'with "quotes"'} <= hidden
    stream = io.StringIO()
    configure(settings, stream)
    log = logging.getLogger("flows.x")
    log.warning("login with %s refused", SECRET, extra={"url": url, "token": 'with "quotes"'})
    try:
        raise OSError(f"could not reach {url}")
    except OSError:
        log.exception("no", extra={"nested": {"a": [SECRET]}})
    text = stream.getvalue()
    assert not [value for value in hidden if value in text]
    assert "quotes" not in text
    assert "me:***@db.example" in text


@pytest.mark.parametrize("first", ["ours", "prefects"])
def test_prefect_neither_replaces_it_nor_says_things_twice(
    first: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(store={"access_key": "AKIA1234", "secret_key": SECRET})
    logging.getLogger().handlers[:] = []  # pytest's
    if first == "ours":
        configure(settings)
        setup_logging(incremental=False)
    else:
        setup_logging(incremental=False)
        configure(settings)
    logging.getLogger("flows.x").warning("login with %s refused", SECRET)
    logging.getLogger("prefect.client").critical("gone with %s", SECRET)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["login with *** refused", "gone with ***"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("at http://u:p@h:1/x?y", "at http://u:***@h:1/x?y"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("http://h/sign-in#" + "a" * 43, "http://h/sign-in#***"),
        ("nothing: to hide @ all", "nothing: to hide @ all"),
    ],
)
def test_addresses_and_tokens_are_masked_without_being_known(text: str, clean: str) -> None:
    assert masked(text) == clean


def test_a_wrong_setting_does_not_show_its_value(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(f'[store]\nsecret_keys = "{SECRET}"\n')
    with pytest.raises(WorkspaceError, match="secret_keys") as error:
        load_settings(tmp_path)
    assert SECRET not in str(error.value)
    settings = Settings.model_validate({"database_url": f"postgresql://a:{PASSWORD}@h/d"})
    assert PASSWORD not in repr(settings)


@pytest.mark.slow
def test_no_secret_gets_into_what_is_written_of_a_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Like test_secrets, for data that commands do not write: logged settings, metrics, a
    report."""
    monkeypatch.setenv("DATAENGINE_LOG", "json")
    monkeypatch.setenv("DATAENGINE_STORE__ACCESS_KEY", "AKIAPLANTED")
    monkeypatch.setenv("DATAENGINE_STORE__SECRET_KEY", "planted-secret-1")
    monkeypatch.setenv("DATAENGINE_OPERATIONS__METRICS_TOKEN", "planted-secret-2")
    with running_postgres() as server:
        url = server.url(server.create_database()).replace(
            "postgres:@/", "postgres:planted-secret-3@/"
        )
        monkeypatch.setenv("DATAENGINE_DATABASE_URL", url)
        site = make_site(tmp_path / "ws")
        workspace = site.workspace
        site.review()
        log = logging.getLogger("flows.x")
        log.error("the settings are %r, %s", workspace.settings, workspace.settings)
        log.error("connecting to %s", url)
        workspace.catalog.runs.start("t", RunKind.RETRAIN, dataset_id=site.dataset_id)
        told = [
            json.dumps(check_workspace(workspace.settings.root), default=str),
            json.dumps(status_of(workspace), default=str),
            "".join(str(metric) for metric in WorkspaceCollector(workspace).collect()),
            repr(workspace.masks) + repr(workspace.objects),
        ]
        write_report(workspace, "d", {"rounds": [], "review": {}}, tmp_path / "report.html")
        told.append((tmp_path / "report.html").read_text())
        told += map(str, tables_of(workspace).values())
        workspace.catalog.close()
    out, err = capfd.readouterr()
    told += [out, err]
    assert "postgres:***@" in err
    assert [text for text in told if "planted" in text.lower()] == []


def test_opening_a_workspace_sets_the_log_up(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('log = "json"\n')
    open_workspace(str(tmp_path))
    handler = next(h for h in logging.getLogger().handlers if getattr(h, "of_dataengine", False))
    assert isinstance(handler.formatter, logs.JsonLines)
