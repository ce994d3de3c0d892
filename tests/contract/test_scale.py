"""Costs that must not grow with the dataset: plans are streamed, lookups read few files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.core.records import Mask, Stage
from storage.catalog import Catalog, PlannedRound, RunKind, Split
from storage.catalog.images import ID_PAGE
from storage.catalog.shards import PLAN_ROWS
from storage.local_store import LocalStore
from storage.mask_filters import Where
from storage.masks import MaskTable, _dataset, _superseded
from tests.contract.database_fixtures import (
    FakeClock,
    catalog_fixture,  # noqa: F401 - a fixture
    clock_fixture,  # noqa: F401 - a fixture
    database_server_fixture,  # noqa: F401 - a fixture
    make_world,
    new_image,
)
from tests.contract.test_masks import a_mask


def test_ids_come_in_order_over_pages_up_to_a_limit(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ID_PAGE > 100
    monkeypatch.setattr("storage.catalog.images.ID_PAGE", 3)
    world = make_world(catalog, images=7)
    held_out = replace(new_image(99), split=Split.HELD_OUT)
    (last,) = catalog.images.add_many(world.dataset.id, [held_out]).ids
    images = catalog.images
    assert list(images.ids(world.dataset.id)) == [*world.image_ids, last]
    assert list(images.ids(world.dataset.id, limit=6)) == world.image_ids[:6]
    assert list(images.ids(world.dataset.id, limit=0)) == []
    assert list(images.ids(world.dataset.id, split=Split.TRAIN, limit=99)) == world.image_ids


def test_unused_ids_are_those_of_the_unused_images(catalog: Catalog) -> None:
    world = make_world(catalog, images=5)
    loop = catalog.loops.start_or_resume(
        world.dataset.id, [PlannedRound(stage=Stage.ASSISTED_MANUAL, images=2)]
    )
    (first,) = catalog.rounds.for_loop(loop.id)
    catalog.rounds.assign_images(first.id, world.image_ids[1:3])
    rest = [world.image_ids[0], *world.image_ids[3:]]
    images, dataset = catalog.images, world.dataset.id
    assert images.unused_ids_in_loop(dataset, loop.id, limit=None) == rest
    assert images.unused_ids_in_loop(dataset, loop.id, limit=2) == rest[:2]


def test_a_plan_is_read_a_part_at_a_time_and_only_once(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PLAN_ROWS > 100
    monkeypatch.setattr("storage.catalog.shards.PLAN_ROWS", 2)
    world = make_world(catalog, images=7)

    def cut() -> Iterator[list[int]]:
        ids = list(catalog.images.ids(world.dataset.id))  # another connection, half-way
        yield from (ids[start : start + 3] for start in range(0, 7, 3))

    assert catalog.shards.plan(world.run_id, cut()) == 3

    def never() -> Iterator[list[int]]:
        raise AssertionError("a planned run reads no plan")
        yield []

    assert catalog.shards.plan(world.run_id, never()) == 0
    totals = catalog.shards.totals(world.run_id)
    assert (totals.shards, totals.images, totals.committed_images) == (3, 7, 0)
    assert [len(shard.image_ids) for shard in catalog.shards.all(world.run_id)] == [3, 3, 1]


def test_a_plan_that_fails_midway_leaves_none(catalog: Catalog) -> None:
    world = make_world(catalog)

    def broken() -> Iterator[list[int]]:
        yield from ([number] for number in range(PLAN_ROWS + 1))
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        catalog.shards.plan(world.run_id, broken())
    assert catalog.shards.totals(world.run_id).shards == 0


def test_expired_leases_and_planned_images_are_counted(catalog: Catalog, clock: FakeClock) -> None:
    world = make_world(catalog)
    catalog.shards.plan(world.run_id, [[1, 2], [3], [4]])
    first = catalog.shards.lease(world.run_id, "a", 60)
    second = catalog.shards.lease(world.run_id, "b", 90)
    assert first is not None
    assert second is not None
    assert catalog.shards.expired(world.run_id) == 0
    clock.advance(60)
    assert catalog.shards.expired(world.run_id) == 1
    catalog.shards.commit(
        world.run_id, 1, str(second.lease_id), masks=1, table_version=1, seconds=1
    )
    clock.advance(60)
    assert catalog.shards.expired(world.run_id) == 1
    assert catalog.shards.totals(world.run_id).committed_images == 1
    planned = catalog.shards.planned_images
    assert planned(world.dataset.id, RunKind.ASSISTED_MANUAL) == {1, 2, 3, 4}
    assert planned(world.dataset.id, RunKind.RETRAIN) == set()


@pytest.fixture
def table(tmp_path: Path) -> MaskTable:
    """Five files of two images each; in the last one a mask supersedes one of the first."""
    made = MaskTable(LocalStore(tmp_path))
    for shard in range(5):
        fix: dict[str, Any] = {"supersedes": "mask-0001"} if shard == 4 else {}
        masks: list[Mask] = [
            a_mask(2 * shard, shard=shard),
            a_mask(2 * shard + 1, shard=shard, **fix),
        ]
        made.commit(masks, run_id="run", shard=shard)
    return made


def test_masks_of_one_image_are_looked_for_in_the_file_that_can_have_them(
    table: MaskTable,
) -> None:
    opened = table._open()
    assert opened is not None

    def files(**only: Any) -> int:
        return len(_dataset(opened, Where(**only).files()).files)

    assert files() == 5
    assert files(image_ids=[5]) == 1
    assert files(image_ids=[5, 6], run_id="run") == 2
    assert files(run_id="another") == 0
    assert files(dataset="street", mask_ids=["mask-0008"]) == 1
    assert [mask.image_id for mask in table.masks(image_ids=[5])] == [5]


def test_what_is_superseded_is_found_in_files_that_say_so(table: MaskTable) -> None:
    opened = table._open()
    assert opened is not None
    assert _superseded(opened).to_pylist() == ["mask-0001"]
    assert len(_dataset(opened, "supersedes IS NOT NULL").files) == 1
    current = {mask.mask_id for mask in table.masks(current_only=True)}
    assert current == {f"mask-{number:04}" for number in range(10) if number != 1}
