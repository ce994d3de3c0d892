"""Locks, heartbeats of runs, and interrupted releases, on every database."""

from __future__ import annotations

import pytest

from storage.catalog import (
    Catalog,
    Dataset,
    LeaseLostError,
    Release,
    ReleaseState,
    RunKind,
    RunState,
)
from tests.contract.database_fixtures import (
    FakeClock,
    catalog_fixture,  # noqa: F401 - a fixture
    clock_fixture,  # noqa: F401 - a fixture
    database_server_fixture,  # noqa: F401 - a fixture
)


@pytest.fixture
def dataset(catalog: Catalog) -> Dataset:
    return catalog.datasets.get_or_create("d")


def test_one_holds_a_lock_until_it_is_given_back_or_its_holder_falls_silent(
    catalog: Catalog, clock: FakeClock
) -> None:
    first = catalog.locks.take("loop/1", "ada", 10)
    assert first is not None
    assert catalog.locks.take("loop/1", "bob", 10) is None
    assert catalog.locks.take("loop/2", "bob", 10) is not None
    clock.advance(9)
    catalog.locks.renew(first, 10)
    clock.advance(9)
    assert catalog.locks.take("loop/1", "bob", 10) is None
    held = catalog.locks.holder("loop/1")
    assert held is not None
    assert held.owner == "ada"
    clock.advance(2)
    assert catalog.locks.holder("loop/1") is None
    second = catalog.locks.take("loop/1", "bob", 10)
    assert second is not None
    with pytest.raises(LeaseLostError):
        catalog.locks.renew(first, 10)
    catalog.locks.release(first)  # no longer ada's
    assert catalog.locks.take("loop/1", "ada", 10) is None
    catalog.locks.release(second)
    assert catalog.locks.take("loop/1", "ada", 10) is not None


def test_a_run_is_silent_when_neither_a_beat_nor_a_lease_of_it_holds(
    catalog: Catalog, clock: FakeClock, dataset: Dataset
) -> None:
    kinds = {"never": RunKind.INGEST, "beats": RunKind.RELEASE, "leased": RunKind.FULLY_AUTOMATIC}
    for name, kind in kinds.items():
        catalog.runs.start(name, kind, dataset_id=dataset.id)
    catalog.shards.plan("leased", [[]])
    clock.advance(100)
    catalog.runs.beat("beats", 60)
    catalog.shards.lease("leased", "somebody", 60)
    assert [run.id for run in catalog.runs.silent(clock.now)] == ["never"]
    clock.advance(61)
    assert {run.id for run in catalog.runs.silent(clock.now)} == set(kinds)
    catalog.runs.fail("never", "broken off")
    assert {run.id for run in catalog.runs.all(unfinished=True)} == set(kinds)
    catalog.runs.finish("beats")
    assert {run.id for run in catalog.runs.all(unfinished=True)} == {"never", "leased"}
    assert [run.id for run in catalog.runs.silent(clock.now)] == ["leased"]
    assert catalog.runs.start("never", RunKind.INGEST, dataset_id=dataset.id).state == (
        RunState.RUNNING
    )


def test_a_failed_release_is_built_again_from_the_same_version(
    catalog: Catalog, dataset: Dataset
) -> None:
    def start(version: int) -> Release:
        return catalog.releases.start(
            "d-1", dataset_id=dataset.id, table_version=version, key="releases/d-1"
        )

    start(3)
    assert [release.name for release in catalog.releases.building()] == ["d-1"]
    failed = catalog.releases.fail("d-1", "the disk is full")
    assert (failed.state, failed.card) == (ReleaseState.FAILED, {"error": "the disk is full"})
    assert catalog.releases.latest(dataset.id) is None
    again = start(9)
    assert (again.state, again.table_version, again.card) == (ReleaseState.BUILDING, 3, {})
    assert catalog.releases.finish("d-1", {"masks": 1}).state == ReleaseState.DONE
    assert catalog.releases.fail("d-1", "too late").state == ReleaseState.DONE
