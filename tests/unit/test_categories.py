"""Categories: what a list allows, and how a list grows."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from engine.core.categories import (
    MOST_CATEGORIES,
    Category,
    CategoryError,
    CategoryList,
    default_color,
)


def listed(*categories: dict[str, Any]) -> CategoryList:
    numbered = (Category(**({"id": n} | values)) for n, values in enumerate(categories, start=1))
    return CategoryList(categories=tuple(numbered))


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"name": "cat"}, {"name": " Cat ".strip()}], "two categories are named 'Cat'"),
        ([{"name": "straße"}, {"name": "STRASSE"}], "counts as the same name"),
        ([{"name": "a"}, {"name": "b", "id": 1}], "the same id 1"),
        ([{"name": "a", "key": "1"}, {"name": "b", "key": "1"}], "the same key '1'"),
        ([{"name": "a", "parent": 7}], "its parent, id 7, is not in the list"),
        ([{"name": "a", "parent": 2}, {"name": "b", "parent": 1}], "below itself"),
        ([{"name": "a", "parent": 1}], "below itself"),
        ([{"name": "  "}], "a name is empty"),
        ([{"name": "x" * 201}], "has 201 characters"),
        ([{"name": "a\nb"}], "control character"),
        ([{"name": "Unlabelled"}], "masks without a category"),
        ([{"name": "a", "key": "A"}], "not one of 0-9 or a-z"),
        ([{"name": "a", "key": "10"}], "not one of 0-9 or a-z"),
        ([{"name": "a", "color": "red"}], "not like #1f77b4"),
        ([{"name": "a", "id": 0}], "not a whole number from 1"),
        ([{"name": "a", "id": True}], "not a whole number from 1"),
        ([{"name": "a", "id": 2**31}], "not a whole number from 1"),
        ([{"name": f"c{n}"} for n in range(10_000)], "has 10000 categories, and 5000 is the most"),
    ],
)
def test_a_list_that_is_not_allowed_says_what_is_wrong(
    categories: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(CategoryError, match=message):
        listed(*categories)


def test_names_of_all_scripts_are_kept_and_found_in_any_form() -> None:
    names = ["猫", "Übergröße", "кошка", "🐈‍⬛ cat", "x" * 200]
    found = listed(*({"name": name} for name in names))
    assert list(found.names.values()) == names
    apart = unicodedata.normalize("NFD", "übergröSSe")
    assert found.named(f" {apart} ") == found.categories[1]
    assert CategoryList.from_json(found.to_json()) == found


def test_the_largest_list_of_one_long_chain_of_parents_is_allowed() -> None:
    chain = [{"name": f"c{n}", "parent": n - 1 or None} for n in range(1, MOST_CATEGORIES + 1)]
    assert len(listed(*chain)) == MOST_CATEGORIES


def test_the_id_of_a_removed_category_is_never_given_again() -> None:
    first = listed({"name": "cat"}, {"name": "dog"})
    second = first.replaced(first.categories[:1])
    assert second.next_id == 3
    again = second.extended([("dog", None)])
    assert again.names == {1: "cat", 3: "dog"}
    with pytest.raises(CategoryError, match="the id 2 was that of 'dog', which was removed"):
        second.replaced([*second.categories, Category(id=2, name="bird")])


def test_extending_a_list_adds_parents_and_changes_no_known_category() -> None:
    known = listed({"name": "Cat", "color": "#123456"})
    found = known.extended([("cat", "animal"), ("dog", "animal"), ("car", None), ("bus", "bus")])
    assert found.categories[0] == known.categories[0]
    parents = {one.name: one.parent for one in found.categories}
    animal = found.named("animal")
    assert animal is not None
    assert parents == {"Cat": None, "animal": None, "dog": animal.id, "car": None, "bus": None}
    assert found.extended([("DOG", "animal")]) is found


def test_the_first_hundred_colours_differ() -> None:
    assert len({default_color(number) for number in range(1, 101)}) == 100
    assert Category(id=3, name="a").color == default_color(3)
