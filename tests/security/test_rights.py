"""An annotator with a list of datasets sees no others; a removed annotator sees nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from engine.annotation import live
from engine.annotation.access import COOKIE
from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.schemas import TaskView
from flows.cli.main import app as commands
from storage.catalog import Annotator, NewImage, NewTask, TaskKind
from tests.annotation.site import Site, make_site, served

SECRET = "secret"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Dataset `secret` has an image at the head of the queue, `d` has three."""
    site = make_site(tmp_path_factory.mktemp("rights") / "ws")
    catalog = site.workspace.catalog
    secret = catalog.datasets.get_or_create(SECRET)
    (image,) = catalog.images.add_many(
        secret.id,
        [NewImage(sha256="0" * 64, key="images/0.png", file_name="0.png", height=160, width=224)],
    ).ids
    site.annotate()
    task = NewTask(
        dataset_id=secret.id,
        image_id=image,
        kind=TaskKind.ANNOTATE,
        run_id="annotate",
        priority=9,
    )
    site.workspace.queue.add([task])
    return site


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    with served(site.workspace) as address:
        yield address


def secret_image(site: Site) -> int:
    return max(site.image_ids) + 1


def limit(site: Site, name: str, *datasets: str, lift: bool = False) -> Annotator:
    """Restrict an annotator to these datasets, or allow all."""
    catalog = site.workspace.catalog
    person = catalog.annotators.get_or_create(name)
    ids = [catalog.datasets.get(one).id for one in datasets]
    catalog.annotators.set_datasets(person.id, None if lift else ids)
    return person


@contextmanager
def signed_in(site: Site, url: str, name: str, role: str, *datasets: str) -> Iterator[Client]:
    """A client of an annotator with datasets; its task is released at the end."""
    with site.client(url, name, role) as client:
        person = limit(site, name, *datasets)
        yield client
        held = site.workspace.queue.held(person.id, kinds=set(TaskKind))
        if held is not None:
            site.workspace.queue.release(held.id, str(held.lease_id))


def refusal(call: Callable[[], object]) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        call()
    return refused.value


def taken(client: Client, dataset: str | None = None) -> TaskView:
    task = client.next_task([TaskKind.ANNOTATE], dataset).task
    assert task is not None
    return task


def test_an_annotator_gets_tasks_of_their_datasets_only(site: Site, url: str) -> None:
    with signed_in(site, url, "ada", "annotator", "d") as ada:
        found = ada.next_task([TaskKind.ANNOTATE])
        assert found.task is not None
        assert (found.task.dataset, found.waiting) == ("d", 2)
        assert ada.pixels(found.task.image.id, 64)
    with signed_in(site, url, "ada", "annotator") as ada:
        assert ada.next_task([TaskKind.ANNOTATE]).task is None
    with signed_in(site, url, "ada", "annotator", "d") as ada:
        limit(site, "ada", lift=True)
        assert taken(ada).dataset == SECRET  # as for annotators without a list


@pytest.mark.parametrize("name", [SECRET, "nowhere", "Secret", " "])
def test_a_dataset_of_others_is_as_one_that_is_not_there(site: Site, url: str, name: str) -> None:
    with signed_in(site, url, "ada", "annotator", "d") as ada:
        found = refusal(lambda: ada.next_task([TaskKind.ANNOTATE], name))
        assert (found.status, found.message) == (404, f"You have no dataset {name!r}.")
    with signed_in(site, url, "adam", "admin") as adam:
        found = refusal(lambda: adam.next_task([TaskKind.ANNOTATE], "nowhere"))
        assert SECRET not in found.message


def test_a_task_and_an_image_of_others_are_as_those_that_are_not_there(
    site: Site, url: str
) -> None:
    with signed_in(site, url, "bob", "annotator", SECRET) as bob:
        theirs = taken(bob)
        with signed_in(site, url, "rita", "reviewer", "d") as rita:
            for call, of_theirs in ((rita.pixels, theirs.image.id), (rita.task, theirs.id)):
                seen, nothing = refusal(partial(call, of_theirs)), refusal(partial(call, 2**40))
                assert (seen.status, seen.error) == (nothing.status, nothing.error)
                assert seen.message == nothing.message.replace(str(2**40), str(of_theirs))
            assert rita.pixels(site.image_ids[0], 64)
            for figures in (rita.overview, rita.jobs, lambda: rita._send("GET", "/api/jobs/x")):
                assert refusal(figures).error == "datasets"


def test_whoever_leaves_a_dataset_loses_the_task_they_hold(site: Site, url: str) -> None:
    with signed_in(site, url, "ada", "annotator", "d") as ada:
        task = taken(ada)
        limit(site, "ada", SECRET)
        for call in (
            lambda: ada.heartbeat(task),
            lambda: ada.save_draft(task, 1, {}),
            lambda: ada.submit(task, [], seconds=1.0),
            lambda: ada.skip(task),
            lambda: ada.task(task.id),
            lambda: ada.pixels(task.image.id),
        ):
            assert refusal(call).status == 404
        assert taken(ada).dataset == SECRET
        site.workspace.queue.release(task.id, task.lease_id)


def test_an_admin_sees_all_whatever_their_list(site: Site, url: str) -> None:
    with signed_in(site, url, "adam", "admin", "d") as adam:
        assert {row["name"] for row in adam.overview().datasets} == {"d", SECRET}
        assert adam.pixels(secret_image(site), 64)


def test_the_command_says_who_sees_what(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(site.workspace.settings.root))

    def run(*words: str) -> Any:
        done = CliRunner().invoke(commands, ["annotators", *words, "--json"])
        if done.exit_code:
            raise done.exception or AssertionError(done.output)
        return json.loads(done.stdout)

    def datasets(name: str) -> list[str] | None:
        rows = {row["name"]: row for row in run("list")["annotators"]}
        found: list[str] | None = rows[name]["datasets"]
        return found

    run("add", "zoe", "--dataset", "d", "--dataset", SECRET)
    assert datasets("zoe") == ["d", SECRET]
    run("add", "zoe", "--dataset", "d")
    run("add", "zoe", "--role", "reviewer")
    assert datasets("zoe") == ["d"]
    run("add", "zoe", "--dataset", "*")
    assert datasets("zoe") is None
    with pytest.raises(Exception, match="no dataset 'nowhere'"):
        run("add", "yan", "--dataset", "nowhere")
    assert site.workspace.catalog.annotators.find("yan") is None, "and would see all datasets"


# live events


def told(lines: Iterator[str]) -> str:
    """The next event's name and data."""
    name, data, _ = next(lines), next(lines), next(lines)
    return f"{name.removeprefix('event: ')} {data.removeprefix('data: ')}"


@contextmanager
def listening(url: str, client: Client) -> Iterator[Iterator[str]]:
    cookies = {COOKIE: str(client.session)}
    with httpx.stream("GET", f"{url}/api/events", cookies=cookies, timeout=8) as stream:
        assert stream.status_code == 200
        yield stream.iter_lines()


def test_events_end_when_somebody_is_removed(
    site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(site.workspace.settings.root))
    with signed_in(site, url, "gone", "annotator") as gone:
        with listening(url, gone) as lines:
            told(lines)
            assert CliRunner().invoke(commands, ["annotators", "remove", "gone"]).exit_code == 0
            assert list(lines) == []


def test_events_follow_the_rights_of_now(site: Site, url: str) -> None:
    with signed_in(site, url, "rita", "reviewer", "d") as rita:
        person = limit(site, "rita", lift=True)
        with listening(url, rita) as lines:
            assert told(lines).startswith("queue")
            assert told(lines).startswith("overview")
            site.workspace.catalog.annotators.set_datasets(person.id, [])
            name, _, data = told(lines).partition(" ")
            assert name == "queue"
            assert json.loads(data)["annotate"]["open"] == 0
        with listening(url, rita) as lines:
            assert json.loads(told(lines).partition(" ")[2])["annotate"]["open"] == 0
            limit(site, "rita", "d")
            assert json.loads(told(lines).partition(" ")[2])["annotate"]["open"] == 3


def test_a_browser_has_so_many_streams_and_no_more(
    site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STREAMS", 2)
    with signed_in(site, url, "ada", "annotator") as ada:
        with listening(url, ada) as first, listening(url, ada) as second:
            assert told(first) == told(second)
            with listening(url, ada) as third:
                assert list(third) == []
        end = time.monotonic() + 20
        is_let_in = False
        while not is_let_in:  # the server detects the closed connections
            assert time.monotonic() < end, "closed streams still count"
            with listening(url, ada) as fourth:
                is_let_in = next(fourth, None) is not None


# files of an earlier version


def test_an_older_workspace_opens_and_everybody_sees_all(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    from storage.catalog import Catalog
    from storage.catalog.schema import MIGRATIONS

    with Catalog(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        catalog.migrate()
        catalog.annotators.get_or_create("ada")
        with catalog.engine.execution_options(writes=True).begin() as connection:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", str(MIGRATIONS))
            command.downgrade(config, "0005")
        catalog.migrate()
        person = catalog.annotators.find("ada")
    assert person is not None
    assert person.datasets is None
