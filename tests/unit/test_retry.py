"""Jobs retry during outages, for as long as the settings say."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from flows.workspace import retry
from flows.workspace.retry import OutageError, lease_heartbeat, retry_during_outage
from storage.catalog import CatalogUnavailableError, LeaseLostError
from storage.objects import StorageError, StorageUnavailableError


class Clock:
    """A clock that advances only while somebody sleeps or works."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    return clock


def fails(errors: list[Exception | None], work: Callable[[], None] = lambda: None) -> int:
    """Raises the errors in turn, then returns the number of remaining ones."""
    work()
    if errors and (error := errors.pop(0)) is not None:
        raise error
    return len(errors)


def test_a_call_is_made_again_until_it_is_answered(clock: Clock) -> None:
    errors: list[Exception | None] = [
        StorageUnavailableError("busy"),
        CatalogUnavailableError("away"),
        StorageUnavailableError("busy"),
    ]
    assert retry_during_outage(60, lambda: fails(errors)) == 0
    assert clock.slept == [0.5, 1.0, 2.0]


def test_an_outage_that_lasts_ends_the_call_with_its_reason(clock: Clock) -> None:
    errors: list[Exception | None] = [StorageUnavailableError("busy")] * 99
    with pytest.raises(OutageError, match="after 20 s: busy"):
        retry_during_outage(20, lambda: fails(errors))
    assert clock.now == pytest.approx(20)
    assert len(errors) > 90


def test_none_is_waited_for_where_the_settings_say_so(clock: Clock) -> None:
    errors: list[Exception | None] = [CatalogUnavailableError("away")]
    with pytest.raises(OutageError):
        retry_during_outage(0, lambda: fails(errors))
    assert clock.slept == []


def test_an_outage_that_ended_is_forgotten(clock: Clock) -> None:
    errors: list[Exception | None] = [StorageUnavailableError("busy")] * 8

    def hours() -> None:
        clock.now += 3600

    assert retry_during_outage(60, lambda: fails(errors, hours)) == 0
    assert clock.slept == [0.5] * 8


@pytest.mark.parametrize("error", [StorageError("denied"), LeaseLostError("lost"), KeyError("x")])
def test_what_does_not_end_by_itself_is_not_waited_for(clock: Clock, error: Exception) -> None:
    with pytest.raises(type(error)):
        retry_during_outage(60, lambda: fails([error]))
    assert clock.slept == []


def test_a_lease_is_renewed_again_after_an_outage_but_not_after_it_was_lost() -> None:
    errors: list[Exception | None] = [
        CatalogUnavailableError("away"),
        None,
        LeaseLostError("lost"),
        None,
    ]
    with lease_heartbeat(lambda: fails(errors), 0.03):
        end = time.monotonic() + 0.4
        while time.monotonic() < end and len(errors) > 1:
            time.sleep(0.01)
        time.sleep(0.05)
    assert errors == [None]
