"""Webhooks: signed events at a real receiver, retries, addresses that are refused, the commands."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.annotation import webhook_sending
from engine.annotation.client import Client
from engine.annotation.webhook_sending import (
    RETRY_SECONDS,
    RefusedAddressError,
    WebhookSender,
    address_of,
    signature,
)
from engine.core.events import EVENTS, MODEL_PROMOTED, ROUND_DRAINED
from flows.cli.main import app
from flows.prefect_api import events
from flows.workspace import progress
from flows.workspace.workspace import open_workspace
from storage.catalog import Catalog, DeliveryState, TaskKind
from tests.annotation.site import Site, make_site, served
from tests.annotation.test_tasks import new_mask
from tests.annotation.test_team import refusal
from tests.annotation.test_work import opened_round
from tests.contract.database_fixtures import FakeClock
from tests.webhook_receiver import Receiver, receiving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HERE = ip_network("127.0.0.0/8")
ALL = list(EVENTS)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def site(tmp_path: Any) -> Site:
    """A site whose webhooks may be on this machine."""
    folder = tmp_path / "ws"
    make_site(folder)
    toml = folder / "dataengine.toml"
    toml.write_text(f'{toml.read_text()}[page]\nwebhook_networks = ["127.0.0.0/8"]\n')
    open_workspace.cache_clear()
    workspace = open_workspace(str(folder))
    dataset = workspace.catalog.datasets.get("d")
    return Site(workspace, dataset.id, list(workspace.catalog.images.ids(dataset.id)), [])


def until(true: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def check(secret: str, headers: dict[str, str], body: bytes) -> None:
    """What a receiver checks, by the Standard Webhooks specification."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join(
        [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
    )
    told = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{told}"
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60


def test_a_signature_is_that_of_the_specifications_libraries() -> None:
    """The values are those of the tests of standardwebhooks' libraries."""
    secret, event_id = SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek"
    found = signature(secret, event_id, 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    body = b'{"test": 2432232315}'
    assert signature(secret, event_id, 1614265330, body) != found


def test_a_drained_round_reaches_the_receiver_signed_while_the_page_runs(
    site: Site, url: str, adam: Client, ada: Client, receiver: Receiver
) -> None:
    made = adam.webhooks.add(receiver.url, [ROUND_DRAINED])
    assert made.secret.startswith("whsec_")
    view = adam.webhooks.view()
    assert made.secret not in view.model_dump_json()
    assert view.webhooks == [made.view]
    assert view.events == EVENTS
    opened_round(site)
    while task := ada.next_task([TaskKind.ANNOTATE]).task:
        ada.submit(task, [new_mask()], seconds=3)
    until(lambda: receiver.got)
    headers, body = receiver.got[0]
    check(made.secret, headers, body)
    told = json.loads(body)
    assert told["type"] == ROUND_DRAINED
    assert told["data"] | {"round": 1} == {
        "dataset": "d",
        "round": 1,
        "stage": "assisted_manual",
        "workspace": "dataengine",
    }
    until(lambda: adam.webhooks.view().deliveries[0].state == "delivered")
    (delivery,) = adam.webhooks.view().deliveries
    assert (delivery.status, delivery.attempts, delivery.error) == (204, 1, None)
    again = adam.webhooks.again(delivery.id)
    until(lambda: len(receiver.got) == 2)
    assert receiver.got[1][0]["webhook-id"] == headers["webhook-id"] == again.event_id


def test_a_webhook_is_tested_paused_and_removed_and_all_of_it_is_logged(
    site: Site, url: str, adam: Client, rita: Client, receiver: Receiver
) -> None:
    one = adam.webhooks.add(receiver.url, ALL).view.id
    adam.webhooks.test(one)
    until(lambda: receiver.got)
    assert json.loads(receiver.got[0][1])["type"] == "dataengine.test"
    adam.webhooks.pause(one)
    assert refusal(lambda: adam.webhooks.test(one)).error == "paused"
    assert not events.emit(site.workspace, MODEL_PROMOTED, {"version": "x"})
    adam.webhooks.resume(one)
    events.emit(site.workspace, MODEL_PROMOTED, {"version": "y"})
    adam.webhooks.test(one)
    until(lambda: len(receiver.got) == 3)
    told = {json.loads(body)["data"].get("version") for _, body in receiver.got}
    assert told == {None, "y"}, "what happened during the pause is not sent"
    adam.webhooks.remove(one)
    assert adam.webhooks.view().deliveries == []
    for call in (adam.webhooks.test, adam.webhooks.remove, adam.webhooks.pause):
        assert refusal(lambda: call(one)).status == 404  # noqa: B023
    log = adam.team.audit()
    assert [entry.action for entry in log[:4]] == [
        "webhook_removed",
        "webhook_tested",
        "webhook_resumed",
        "webhook_paused",
    ]
    assert "key=k" not in str([entry.model_dump() for entry in log])
    assert refusal(rita.webhooks.view).error == "role"
    assert refusal(lambda: adam.webhooks.add(receiver.url, ["nothing"])).status == 422


# sending, with a clock that the test moves


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def catalog(tmp_path: Any, clock: FakeClock) -> Iterator[Catalog]:
    with Catalog(f"sqlite:///{tmp_path / 'c.db'}", clock=clock) as found:
        found.migrate()
        yield found


def test_a_failing_receiver_is_tried_again_and_again_and_then_given_up(
    catalog: Catalog, clock: FakeClock, receiver: Receiver
) -> None:
    sender = WebhookSender(catalog, [HERE])
    hook = catalog.webhooks.add(receiver.url, ["a"], SECRET)
    catalog.webhooks.announce("a", {"n": 1})
    receiver.statuses = [500, 302, 503, 404, 200]
    for pause in RETRY_SECONDS[:4]:
        assert sender.send_due() == 1
        assert sender.send_due() == 0, "not before its pause is over"
        clock.advance(pause * 1.1)
    sender.send_due()
    (delivery,) = catalog.webhooks.deliveries(limit=9)
    assert (delivery.state, delivery.attempts, len(receiver.got)) == (DeliveryState.DELIVERED, 5, 5)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1

    receiver.statuses = [500]
    catalog.webhooks.announce("a", {"n": 2})
    for pause in (*RETRY_SECONDS, 1e9):
        sender.send_due()
        clock.advance(pause * 1.1)
    delivery = catalog.webhooks.deliveries(limit=1)[0]
    assert (delivery.state, delivery.attempts) == (DeliveryState.FAILED, len(RETRY_SECONDS) + 1)
    assert (delivery.status, delivery.due_at) == (500, None)

    receiver.statuses = [410]
    catalog.webhooks.announce("a", {"n": 3})
    sender.send_due()
    assert catalog.webhooks.get(hook.id).paused_at is not None, "the receiver wants no more"


def test_a_receiver_that_is_gone_is_an_error_of_the_delivery_alone(
    catalog: Catalog, receiver: Receiver
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        catalog.webhooks.add(dead, ["a"], SECRET)
        catalog.webhooks.add(receiver.url, ["a"], SECRET)
        catalog.webhooks.announce("a", {"n": 1})
        WebhookSender(catalog, [HERE]).send_due()
    first, second = catalog.webhooks.deliveries(limit=2)
    assert [first.state, second.state] == [DeliveryState.DELIVERED, DeliveryState.WAITING]
    assert "ConnectError" in str(second.error)


def test_an_address_that_has_become_private_gets_nothing(
    catalog: Catalog, receiver: Receiver
) -> None:
    """The name of a webhook may lead elsewhere later; it is looked up and checked at each try."""
    catalog.webhooks.add(receiver.url, ["a"], SECRET)
    catalog.webhooks.announce("a", {})
    WebhookSender(catalog).send_due()
    (delivery,) = catalog.webhooks.deliveries(limit=9)
    assert delivery.state == DeliveryState.FAILED
    assert "not public" in str(delivery.error)
    assert receiver.got == []


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254"),
        *("0.0.0.1", "100.64.0.1", "224.0.0.1", "255.255.255.255", "127.1", "2130706433"),
        *("[::1]", "[fe80::1]", "[fc00::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"),
        *("[2002:7f00:1::]", "[ff02::1]", "[::]"),
    ],
)
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises((RefusedAddressError, OSError)):
        address_of(f"https://{host}/hook")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://93.184.215.14/", "file:///etc/passwd", "//93.184.215.14/", "93.184.215.14", ""),
        *("https://user:pw@93.184.215.14/", "https://93.184.215.14/#x", "https:///x"),
        *("https://93.184.215.14:0/", "https://93.184.215.14:99999/", "https://93.184.215.14/a b"),
        *("https://93.184.215.14/\r\nX: y", "https://93.184.215.14/ä", "javascript:alert(1)"),
    ],
)
def test_what_is_no_plain_address_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(RefusedAddressError):
        address_of(url)


def test_public_addresses_and_allowed_networks_are_reached() -> None:
    assert address_of("https://93.184.215.14/x") == "93.184.215.14"
    assert address_of("http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/x").startswith("2606:")
    assert address_of("http://127.0.0.1:9/", [HERE]) == "127.0.0.1"
    with pytest.raises(RefusedAddressError, match="webhook_networks"):
        address_of("http://10.0.0.1/", [HERE])


# the same by commands


def _run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["webhooks", *arguments])
    assert result.exit_code == code, result.output
    progress.use(progress.Silent())
    # what other threads log goes to stderr
    return result.output if code else result.stdout


def test_webhooks_are_managed_by_commands(
    site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(site.workspace.settings.root))
    made = json.loads(_run("add", receiver.url, "--json"))
    assert made["events"] == sorted(ALL)
    one = str(made["id"])
    assert "delivered: status 204" in _run("test", one)
    check(made["secret"], *receiver.got[0])
    receiver.statuses = [500]
    assert "waiting: status 500" in _run("test", one, code=1)
    events.emit(site.workspace, MODEL_PROMOTED, {"version": "x"})
    assert json.loads(_run("send", "--json")) == {"tried": 1}
    listed = json.loads(_run("deliveries", "--json"))["deliveries"]
    assert [row["state"] for row in listed] == ["waiting", "waiting", "delivered"]
    _run("again", str(listed[2]["id"]))
    _run("pause", one)
    assert "paused" in _run("list")
    _run("resume", one)
    assert "None" not in _run("deliveries")
    _run("remove", one)
    assert json.loads(_run("list", "--json")) == {"webhooks": []}
    assert "no webhook 1" in _run("remove", one, code=2)
    assert "not public" in _run("add", "http://10.0.0.1/", code=2)


def test_a_receiver_that_never_answers_does_not_hold_up_the_page_or_the_others(
    site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sending, "POST_SECONDS", 1.0)
    hooks = site.workspace.catalog.webhooks
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hooks.add(f"http://127.0.0.1:{silent.getsockname()[1]}/", ["a"], SECRET)
        hooks.add(receiver.url, ["a"], SECRET)
        hooks.announce("a", {})
        with served(site.workspace), silent.accept()[0]:  # it has connected, and waits
            until(lambda: receiver.got)
            until(lambda: "no answer" in str(hooks.deliveries(limit=2)[1].error))
