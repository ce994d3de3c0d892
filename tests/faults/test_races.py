"""Sixteen processes lease from one catalog concurrently: nothing is leased twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.races import (
    KINDS,
    WRONG,
    Ending,
    Hold,
    Row,
    compare,
    given_twice,
    race,
)
from tests.contract.database_fixtures import (
    DatabaseServer,
    database_server_fixture,  # noqa: F401 - a fixture
)

PROCESSES = 16


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_of_sixteen_processes_no_two_are_given_the_same(
    database_server: DatabaseServer, kind: str, tmp_path: Path
) -> None:
    found = race(database_server.migrated(), kind, tmp_path, processes=PROCESSES, seconds=3)
    assert {name: found[name] for name in WRONG} == dict.fromkeys(WRONG, 0), found
    assert found["committed"] > PROCESSES
    assert found["takeovers"] > 0
    assert found["refused"] > 0
    assert found["unavailable"] == 0


def hold(lease_id: str, began: float, ending: Ending, ended: float = 0) -> Hold:
    """A lease of ten seconds on the same task."""
    return Hold(1, lease_id, 0, began, began + 10, ending, ended)


@pytest.mark.parametrize(
    ("first", "began", "expected"),
    [
        (hold("a", 0, Ending.LEFT), 9, 1),
        (hold("a", 0, Ending.LEFT), 11, 0),
        (hold("a", 0, Ending.REFUSED, 5), 9, 1),
        (hold("a", 0, Ending.REFUSED, 12), 11, 0),
        (hold("a", 0, Ending.RELEASED, 5), 4, 1),
        (hold("a", 0, Ending.RELEASED, 5), 6, 0),
        (hold("a", 0, Ending.COMMITTED, 5), 100, 1),
    ],
)
def test_a_lease_given_while_another_is_good_is_given_twice(
    first: Hold, began: float, expected: int
) -> None:
    second = hold("b", began, Ending.COMMITTED, began + 1)
    assert given_twice([second, first]) == expected


def test_a_lease_that_was_over_before_its_holder_was_told_was_not_given_twice() -> None:
    late = Hold(1, "a", 0, began=12, expires=10)
    assert given_twice([late, hold("b", 11, Ending.COMMITTED, 13)]) == 0


def test_notes_that_the_catalog_does_not_bear_out_are_counted() -> None:
    noted = [hold("a", 0, Ending.COMMITTED), hold("b", 2, Ending.COMMITTED)]
    rows = [Row(1, "b", attempts=2, expiries=0), Row(2, "c", attempts=2, expiries=0)]
    assert compare(noted, rows) == {"committed_twice": 1, "lost": 1, "unclaimed": 1, "unheard": 2}
