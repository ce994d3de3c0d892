"""One rule validates names of new datasets, releases, models and annotators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import MetaData, func, select, text

from storage.catalog import BadNameError, Catalog, check_name
from tests.contract.database_fixtures import (
    catalog_fixture,
    clock_fixture,
    database_server_fixture,
)

__all__ = ["catalog_fixture", "clock_fixture", "database_server_fixture"]

BAD = {
    "empty": "",
    "blank": " ",
    "upwards": "../x",
    "hidden": ".x",
    "an option": "--x",
    "a path": "a/b",
    "a Windows path": "a\\b",
    "a control character": "a\nb",
    "a NUL": "a\0b",
    "an escape": "\x1b[31m",
    "invisible": "a\u200bb",
    "turned around": "a\u202eb",
    "no UTF-8": "a\udcff",
    "space at an end": "a ",
    "300 letters": "x" * 300,
    "100 letters of three bytes": "細" * 100,
    "separate accents": "e\u0301",
}
GOOD = ["a", "Zellen (Übung) #2, 50 %", "細胞", "a.b_c-d", "ada@lab.example", "x" * 150]


def _makers(catalog: Catalog) -> dict[str, tuple[Callable[[str], object], str]]:
    """By kind, the function that creates a row, and its table."""
    dataset = catalog.datasets.get_or_create("birds").id
    releases, models = catalog.releases, catalog.models
    return {
        "dataset": (catalog.datasets.get_or_create, "datasets"),
        "annotator": (catalog.annotators.get_or_create, "annotators"),
        "release": (
            lambda name: releases.start(name, dataset_id=dataset, table_version=0, key="k"),
            "releases",
        ),
        "model": (lambda name: models.add(name, architecture="lite", key="k"), "models"),
    }


@pytest.mark.parametrize("kind", ["dataset", "annotator", "release", "model"])
def test_a_bad_name_is_refused_and_nothing_is_kept(catalog: Catalog, kind: str) -> None:
    make, table = _makers(catalog)[kind]
    tables = MetaData()

    def kept() -> int:
        with catalog.engine.connect() as connection:
            tables.reflect(connection, only=[table])
            return connection.scalar(select(func.count()).select_from(tables.tables[table])) or 0

    before = kept()
    for what, name in BAD.items():
        with pytest.raises(BadNameError):
            make(name)
        assert kept() == before, what
    for name in GOOD:
        make(name)
        make(name)
    assert kept() == before + len(GOOD)


def test_what_was_named_before_there_was_the_rule_keeps_its_name(catalog: Catalog) -> None:
    with catalog.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO datasets (name, created_at) VALUES ('old/../name', :now)"),
            {"now": "2026-01-01 00:00:00"},
        )
    old = catalog.datasets.get_or_create("old/../name")
    assert catalog.datasets.get("old/../name") == old


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("dataset", "x" * 151, "151 bytes"),
        ("release", "latest", "commands mean something else"),
        ("schedule", "e\u0301", "give 'é'"),
        ("model", "a ", "give 'a'"),
        ("annotator", "../x", "begins with '.'"),
    ],
)
def test_the_message_says_what_is_wrong_with_a_name(kind: str, name: str, told: str) -> None:
    with pytest.raises(BadNameError, match=f"cannot be the name of a {kind}") as caught:
        check_name(kind, name)
    assert told in str(caught.value)
    assert str(caught.value).isprintable()
