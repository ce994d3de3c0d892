"""Guidelines, changed settings and webhooks, on every database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.catalog import (
    Catalog,
    ConstraintError,
    DeliveryState,
    NotFoundError,
    StaleStateError,
)
from storage.catalog.backup import restore_backup, write_backup
from storage.catalog.erasing import forget_dataset, forget_person
from tests.contract.database_fixtures import (
    FakeClock,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
)


def test_of_two_writers_at_once_one_writes_the_next_version(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("d").id
    assert catalog.guidelines.current(dataset) is None

    def write(text: str) -> str | None:
        try:
            return catalog.guidelines.set(dataset, text, expected_version=0, author="ada").markdown
        except StaleStateError:
            return None

    with ThreadPoolExecutor(4) as pool:
        found = [one for one in pool.map(write, "abcd") if one]
    now = catalog.guidelines.current(dataset)
    assert now is not None
    assert ([now.markdown], now.version, now.author) == (found, 1, "ada")
    catalog.guidelines.set(dataset, "second", expected_version=1)
    assert [one.version for one in catalog.guidelines.history(dataset)] == [2, 1]
    with pytest.raises(StaleStateError, match="meanwhile"):
        catalog.guidelines.set(dataset, "third", expected_version=1)
    with pytest.raises(ConstraintError):
        catalog.guidelines.set(dataset + 1, "x", expected_version=0)


def test_the_last_change_of_a_setting_holds(catalog: Catalog) -> None:
    for value in (0.5, 0.25):
        catalog.setting_changes.add("quality.review_share", value, author="ada")
    catalog.setting_changes.add("quality.feedback", True)
    catalog.setting_changes.add("quality.feedback", None)
    found = catalog.setting_changes.latest()
    assert {name: one.value for name, one in found.items()} == {
        "quality.review_share": 0.25,
        "quality.feedback": None,
    }
    assert found["quality.review_share"].author == "ada"
    with pytest.raises(ValueError, match=r"stored|JSON"):
        catalog.setting_changes.add("x", float("nan"))


def test_an_event_waits_once_for_each_webhook_that_wants_it(
    catalog: Catalog, clock: FakeClock
) -> None:
    one = catalog.webhooks.add("https://a.example/x", ["a", "b", "a"], "s1", author="ada")
    other = catalog.webhooks.add("https://b.example/x", ["b"], "s2")
    asleep = catalog.webhooks.add("https://c.example/x", ["a", "b"], "s3")
    catalog.webhooks.pause(asleep.id, True)
    assert one.events == ["a", "b"]
    assert [catalog.webhooks.announce(event, {"n": 1}) for event in ("a", "b", "c")] == [1, 2, 0]
    with ThreadPoolExecutor(4) as pool:
        taken = [
            p
            for found in pool.map(lambda _: catalog.webhooks.claim(60, limit=9), range(4))
            for p in found
        ]
    assert sorted((p.url, p.secret, p.delivery.event) for p in taken) == [
        ("https://a.example/x", "s1", "a"),
        ("https://a.example/x", "s1", "b"),
        ("https://b.example/x", "s2", "b"),
    ]
    assert len({p.delivery.event_id for p in taken}) == 2  # the same event has the same id
    first, second, third = sorted(taken, key=lambda p: p.delivery.id)
    catalog.webhooks.tried(first.delivery.id, is_delivered=True, status=200)
    catalog.webhooks.tried(second.delivery.id, is_delivered=False, error="gone", retry_seconds=30)
    clock.advance(31)
    (again,) = catalog.webhooks.claim(60, limit=9)
    assert (again.delivery.id, again.delivery.attempts) == (second.delivery.id, 1)
    clock.advance(30)  # who had claimed the third one was killed
    assert [p.delivery.id for p in catalog.webhooks.claim(60, limit=9)] == [third.delivery.id]
    catalog.webhooks.tried(second.delivery.id, is_delivered=False, status=500)
    states = {d.id: (d.state, d.status) for d in catalog.webhooks.deliveries(limit=9)}
    assert states == {
        first.delivery.id: (DeliveryState.DELIVERED, 200),
        second.delivery.id: (DeliveryState.FAILED, 500),
        third.delivery.id: (DeliveryState.WAITING, None),
    }
    repeated = catalog.webhooks.again(second.delivery.id)
    assert (repeated.event_id, repeated.attempts) == (second.delivery.event_id, 0)
    with pytest.raises(NotFoundError):
        catalog.webhooks.again(third.delivery.id)
    catalog.webhooks.drop(other.id)
    assert {d.webhook_id for d in catalog.webhooks.deliveries(limit=9)} == {one.id}
    with pytest.raises(NotFoundError):
        catalog.webhooks.drop(other.id)


def test_a_restored_catalog_sends_nothing_by_itself(catalog: Catalog, tmp_path: Path) -> None:
    catalog.webhooks.add("https://a.example/x", ["a"], "s1")
    catalog.webhooks.announce("a", {})
    write_backup(catalog.engine, tmp_path / "backup")
    with Catalog(f"sqlite:///{tmp_path / 'new.db'}") as new:
        restore_backup(new.engine, tmp_path / "backup")
        (kept,) = new.webhooks.all()
        assert kept.paused_at is not None
        assert new.webhooks.claim(60, limit=9) == []
        assert new.webhooks.deliveries(limit=9) == []


def test_an_erased_name_and_dataset_are_gone_from_all_of_it(catalog: Catalog) -> None:
    dataset = catalog.datasets.get_or_create("d")
    ada = catalog.annotators.get_or_create("ada")
    catalog.guidelines.set(dataset.id, "Ask ada.", expected_version=0, author="ada")
    catalog.guidelines.add_picture(dataset.id, "x.png", "guidelines/1/x.png", "ada")
    catalog.setting_changes.add("quality.feedback", True, author="ada")
    hook = catalog.webhooks.add("https://a.example/x", ["a"], "s", author="ada")
    catalog.webhooks.queue(hook.id, "a", {"dataset": "d"})
    forget_person(catalog, ada.id, "ada", "erased-1")
    now = catalog.guidelines.current(dataset.id)
    assert now is not None
    assert (now.markdown, now.author) == ("Ask erased-1.", "erased-1")
    authors = {
        catalog.guidelines.pictures(dataset.id)["x.png"].author,
        catalog.setting_changes.latest()["quality.feedback"].author,
        catalog.webhooks.get(hook.id).author,
    }
    assert authors == {"erased-1"}
    forget_dataset(catalog, dataset.id, "d")
    assert catalog.guidelines.history(dataset.id) == []
    assert catalog.guidelines.pictures(dataset.id) == {}
    assert catalog.webhooks.deliveries(limit=1)[0].payload == {"dataset": "erased"}
