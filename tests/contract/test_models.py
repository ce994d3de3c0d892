"""Model versions: one is current, and earlier ones can become current again, on every database."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from alembic import command
from alembic.config import Config

from storage.catalog import (
    AlreadyExistsError,
    Catalog,
    Model,
    ModelKind,
    ModelState,
    NotFoundError,
    StaleStateError,
)
from storage.catalog.schema import MIGRATIONS
from tests.contract.database_fixtures import (
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    empty_database_url_fixture,  # noqa: F401
)


def _add_models(catalog: Catalog, *versions: str) -> None:
    for version in versions:
        catalog.models.add(version, architecture="lite", key=f"models/{version}")


def test_promotion_retires_the_model_that_was_current(catalog: Catalog) -> None:
    _add_models(catalog, "v1", "v2")
    assert catalog.models.current() is None
    catalog.models.promote("v1", expected_current=None)
    promoted = catalog.models.promote("v2", expected_current="v1")
    assert promoted.state == ModelState.CURRENT
    assert catalog.models.promote("v2", expected_current="v1") == promoted
    assert catalog.models.get("v1").state == ModelState.RETIRED
    assert catalog.models.current() == promoted


def test_each_kind_of_model_has_a_current_version_and_a_history_of_its_own(
    catalog: Catalog,
) -> None:
    _add_models(catalog, "v1", "v2")
    for version in ("d1", "d2"):
        catalog.models.add(
            version, architecture="retina", key=f"models/{version}", kind=ModelKind.DETECTOR
        )
    catalog.models.promote("v1", expected_current=None)
    catalog.models.promote("d1", expected_current=None)
    catalog.models.promote("v2", expected_current="v1")
    catalog.models.promote("d2", expected_current="d1")
    assert catalog.models.current() == catalog.models.get("v2")
    assert catalog.models.current(ModelKind.DETECTOR) == catalog.models.get("d2")
    assert {model.version for model in catalog.models.all()} == {"v1", "v2"}
    assert catalog.models.roll_back(expected_current="v2").version == "v1"
    assert catalog.models.current(ModelKind.DETECTOR) == catalog.models.get("d2")
    assert catalog.models.roll_back(expected_current="d2").version == "d1"


@pytest.mark.parametrize("expected", [None, "v2"])
def test_promotion_against_another_model_changes_nothing(
    catalog: Catalog, expected: str | None
) -> None:
    _add_models(catalog, "v1", "v2", "v3")
    catalog.models.promote("v1", expected_current=None)
    with pytest.raises(StaleStateError):
        catalog.models.promote("v3", expected_current=expected)
    assert catalog.models.current() == catalog.models.get("v1")
    assert catalog.models.get("v3").state == ModelState.CANDIDATE


@pytest.mark.parametrize("before", [None, "v0"])
def test_of_two_promotions_at_once_one_wins(catalog: Catalog, before: str | None) -> None:
    _add_models(catalog, "v0", "v1", "v2")
    if before is not None:
        catalog.models.promote(before, expected_current=None)
    barrier = Barrier(2)

    def promote(version: str) -> Model | None:
        barrier.wait()
        try:
            return catalog.models.promote(version, expected_current=before)
        except StaleStateError:
            return None

    with ThreadPoolExecutor(2) as pool:
        won = [model for model in pool.map(promote, ["v1", "v2"]) if model is not None]
    assert won == [catalog.models.current()]


def test_a_version_is_added_once(catalog: Catalog) -> None:
    _add_models(catalog, "v1", "v1")
    with pytest.raises(AlreadyExistsError):
        catalog.models.add("v1", architecture="lite", key="elsewhere")
    with pytest.raises(NotFoundError):
        catalog.models.promote("v9", expected_current=None)
    assert [model.version for model in catalog.models.all()] == ["v1"]


def test_rolling_back_undoes_promotions_one_by_one(catalog: Catalog) -> None:
    _add_models(catalog, "v1", "v2")
    for version, before in (("v1", None), ("v2", "v1"), ("v1", "v2")):
        catalog.models.promote(version, expected_current=before)
    back = catalog.models.roll_back(expected_current="v1")
    assert (back.version, back.state) == ("v2", ModelState.CURRENT)
    assert catalog.models.get("v1").state == ModelState.RETIRED
    assert catalog.models.roll_back(expected_current="v2").version == "v1"
    with pytest.raises(NotFoundError, match="before 'v1'"):
        catalog.models.roll_back(expected_current="v1")
    current = catalog.models.current()
    assert current is not None
    assert current.version == "v1"


def test_promoting_after_a_rollback_can_be_rolled_back_too(catalog: Catalog) -> None:
    _add_models(catalog, "v1", "v2", "v3")
    catalog.models.promote("v1", expected_current=None)
    catalog.models.promote("v2", expected_current="v1")
    catalog.models.roll_back(expected_current="v2")
    catalog.models.promote("v3", expected_current="v1")
    assert catalog.models.roll_back(expected_current="v3").version == "v1"


def test_a_rollback_from_a_version_that_is_not_current_changes_nothing(catalog: Catalog) -> None:
    _add_models(catalog, "v1", "v2")
    with pytest.raises(StaleStateError):
        catalog.models.roll_back(expected_current="v1")
    catalog.models.promote("v1", expected_current=None)
    catalog.models.promote("v2", expected_current="v1")
    with pytest.raises(StaleStateError, match="'v1' is no longer current"):
        catalog.models.roll_back(expected_current="v1")
    assert catalog.models.current() == catalog.models.get("v2")


def test_of_a_rollback_and_a_promotion_at_once_one_wins(catalog: Catalog) -> None:
    _add_models(catalog, "v1", "v2", "v3")
    catalog.models.promote("v1", expected_current=None)
    catalog.models.promote("v2", expected_current="v1")
    barrier = Barrier(3)

    def change(work: Callable[[], Model]) -> Model | None:
        barrier.wait()
        try:
            return work()
        except StaleStateError:
            return None

    works: list[Callable[[], Model]] = [
        lambda: catalog.models.roll_back(expected_current="v2"),
        lambda: catalog.models.roll_back(expected_current="v2"),
        lambda: catalog.models.promote("v3", expected_current="v2"),
    ]
    with ThreadPoolExecutor(3) as pool:
        won = [model for model in pool.map(change, works) if model is not None]
    assert won == [catalog.models.current()]


def test_a_first_promotion_made_twice_at_once_counts_once(catalog: Catalog) -> None:
    _add_models(catalog, "v1")
    barrier = Barrier(2)

    def promote(_: int) -> None:
        barrier.wait()
        catalog.models.promote("v1", expected_current=None)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(promote, range(2)))
    with pytest.raises(NotFoundError):
        catalog.models.roll_back(expected_current="v1")


def test_a_catalog_made_before_promotions_were_kept_goes_on(empty_database_url: str) -> None:
    with Catalog(empty_database_url) as catalog:
        newest = catalog.migrate()
        _add_models(catalog, "v1", "v2")
        catalog.models.promote("v1", expected_current=None)
        with catalog.engine.execution_options(writes=True).begin() as connection:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", str(MIGRATIONS))
            command.downgrade(config, "0001")
        assert catalog.migrate() == newest
        catalog.models.promote("v2", expected_current="v1")
        assert catalog.models.roll_back(expected_current="v2").version == "v1"


def test_a_card_takes_what_is_learnt_later(catalog: Catalog) -> None:
    card = {"note": "new", "scores": {"a": 1}, "parent": "v0"}
    added = catalog.models.add("v1", architecture="lite", key="k", card=card)
    described = catalog.models.describe("v1", {"note": "not better", "scores": {"b": None}})
    assert described.card == {"note": "not better", "scores": {"b": None}, "parent": "v0"}
    assert catalog.models.get("v1") == described
    assert described.state == added.state == ModelState.CANDIDATE
    with pytest.raises(NotFoundError):
        catalog.models.describe("v9", {"note": "?"})
