"""Settings that are changed while the workspace is in use, over HTTP and by commands."""

from __future__ import annotations

import json
import logging

import pytest
from typer.testing import CliRunner

from engine.annotation.client import Client
from flows.cli.main import app
from flows.workspace import progress
from flows.workspace.changed_settings import CHANGEABLE, limits_of, value_of
from flows.workspace.settings import SHAPING, load_settings
from flows.workspace.workspace import Workspace
from storage.catalog import TaskKind
from tests.annotation.site import Site
from tests.annotation.test_team import refusal


def again(site: Site) -> Workspace:
    """The workspace as the next command opens it."""
    workspace = Workspace(load_settings(site.workspace.settings.root))
    workspace.prepare()
    return workspace


def test_a_change_holds_at_once_and_for_later_commands_and_the_file_stays_as_it_was(
    site: Site, url: str, adam: Client, rita: Client
) -> None:
    toml = site.workspace.settings.root / "dataengine.toml"
    before = toml.read_bytes()
    found = {one.name: one for one in adam.settings.all()}
    assert set(found) == set(CHANGEABLE)
    share = found["quality.review_share"]
    assert (share.value, share.of_file, share.kind) == (0.2, 0.2, "number")
    assert (share.least, share.most, share.is_changed, share.at) == (0, 1, False, None)
    adam.settings.change("quality.review_share", 0.05)
    adam.settings.change("rounds.choice", "mix")
    now = {one.name: one for one in adam.settings.all()}
    share = now["quality.review_share"]
    assert (share.value, share.of_file, share.author, share.is_changed) == (0.05, 0.2, "adam", True)
    assert now["rounds.choice"].choices == ["random", "disagreement", "diversity", "mix"]
    later = again(site)
    assert later.settings.quality.review_share == 0.05
    assert later.settings.rounds.choice == "mix"
    assert toml.read_bytes() == before
    assert adam.actions()[0].fields["choice"] == "mix"
    log = adam.team.audit()
    assert (log[1].action, log[1].subject, log[1].who) == (
        "setting",
        "quality.review_share",
        "adam",
    )
    assert log[1].detail == {"value": 0.05, "former": 0.2}
    adam.settings.change("quality.review_share", None)
    share = {one.name: one for one in adam.settings.all()}["quality.review_share"]
    assert (share.value, share.is_changed, share.author) == (0.2, False, "adam")
    assert refusal(rita.settings.all).error == "role"


def test_the_page_gives_gold_tasks_from_the_moment_they_are_switched_on(
    site: Site, url: str, adam: Client, ada: Client
) -> None:
    site.annotate()
    assert ada.waiting("d").total == 3  # she may choose
    adam.settings.change("quality.gold_share", 0.5)
    assert refusal(lambda: ada.take(1)).error == "choice"
    assert ada.work(site.workspace.catalog.now()).may_choose is False
    assert ada.next_task([TaskKind.ANNOTATE]).task is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quality.review_share", 1.1),
        ("quality.review_share", -0.1),
        ("quality.review_share", "much"),
        ("quality.review_share", True),
        ("quality.gold_first", 0.5),
        ("quality.feedback", 1),
        ("rounds.choice", "best"),
        ("page.webhook_networks", "0.0.0.0/0"),
        ("store.uri", "s3://elsewhere"),
        ("database_url", "sqlite:///x"),
        ("quality", 1),
        ("quality.review_share.x", 1),
    ],
)
def test_what_cannot_be_changed_here_or_not_so_is_refused(
    site: Site, adam: Client, name: str, value: bool | float | str
) -> None:
    assert refusal(lambda: adam.settings.change(name, value)).status == 422
    assert site.workspace.catalog.setting_changes.latest() == {}


def test_the_environment_is_stronger_than_a_change(
    site: Site, adam: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    adam.settings.change("quality.review_share", 0.05)
    monkeypatch.setenv("DATAENGINE_QUALITY__REVIEW_SHARE", "0.5")
    assert again(site).settings.quality.review_share == 0.5
    assert refusal(lambda: adam.settings.change("quality.review_share", 0.1)).error == "fixed"
    share = {one.name: one for one in adam.settings.all()}["quality.review_share"]
    assert share.is_fixed


def test_a_change_that_this_version_does_not_know_is_left_out(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    changes = site.workspace.catalog.setting_changes
    changes.add("quality.from_the_future", 1)
    changes.add("quality.review_share", 7)
    changes.add("quality.gold_first", 4)
    with caplog.at_level(logging.WARNING):
        found = again(site).settings
    assert (found.quality.review_share, found.quality.gold_first) == (0.2, 4)
    assert "from_the_future" in caplog.text


def test_every_changeable_setting_has_limits_and_access_is_not_among_them() -> None:
    for name in CHANGEABLE:
        limits = limits_of(name)
        assert limits.choices if limits.kind == "choice" else not limits.choices
    sections = {name.partition(".")[0] for name in CHANGEABLE}
    assert sections == {"quality", "rounds", "prefill", "production", "costs"}
    assert not sections & {"page", "store", "operations", "train", "generator"}
    assert sections & SHAPING == {"quality", "prefill"}


def test_settings_are_changed_by_commands(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(site.workspace.settings.root))

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["settings", *arguments])
        progress.use(progress.Silent())
        assert result.exit_code == code, result.output
        return result.output

    assert "quality.review_share is 0.1" in run("set", "quality.review_share", "0.1")
    assert "quality.feedback is True" in run("set", "quality.feedback", "true")
    run("set", "prefill.source", "union")
    rows = {one["name"]: one for one in json.loads(run("list", "--json"))["settings"]}
    assert rows["quality.review_share"]["value"] == 0.1
    assert rows["prefill.source"]["author"] is None
    assert "command" in run("list")
    assert "quality.review_share is 0.2" in run("reset", "quality.review_share")
    assert "cannot be changed here" in run("set", "store.uri", "x", code=2)
    assert value_of(again(site).settings, "prefill.source") == "union"
