"""Category lists and labels in the catalog, on every database."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import func, select

from engine.core.categories import Category, CategoryError, CategoryList
from storage.catalog import (
    AnnotatorKind,
    Catalog,
    CategoryInUseError,
    ConstraintError,
    Label,
    LabelSource,
    NewLabel,
    NotFoundError,
    StaleStateError,
)
from storage.catalog.erasing import forget_dataset, forget_images, forget_person
from storage.catalog.label_tables import CategoryListRow, LabelRow
from tests.contract.database_fixtures import (
    World,
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)

ANIMALS = CategoryList(categories=(Category(id=1, name="cat"), Category(id=2, name="dog", key="2")))


@pytest.fixture
def world(catalog: Catalog) -> World:
    made = make_world(catalog, images=3)
    catalog.categories.set(made.dataset.id, ANIMALS, expected_version=0)
    return made


def label(world: World, mask: str, category: int | None = 1, **more: Any) -> NewLabel:
    values: dict[str, Any] = {"source": LabelSource.ANNOTATOR, **more}
    values.setdefault("image_id", world.image_ids[0])
    return NewLabel(mask_id=mask, category_id=category, **values)


def by_model(world: World, mask: str, category: int | None = 1, **more: Any) -> NewLabel:
    return label(world, mask, category, source=LabelSource.MODEL, model="probe-1", **more)


def categories_of(catalog: Catalog, *masks: str, as_of: int | None = None) -> dict[str, Any]:
    found = catalog.labels.current(masks, as_of=as_of)
    return {mask: found[mask].category_id for mask in masks if mask in found}


# Category lists


def test_a_dataset_has_the_empty_list_until_it_gets_versions(catalog: Catalog) -> None:
    dataset = make_world(catalog, images=1).dataset.id
    assert catalog.categories.current(dataset).version == 0
    assert catalog.categories.history(dataset) == []
    first = catalog.categories.set(dataset, ANIMALS, expected_version=0, author="ada")
    assert catalog.categories.current(dataset) == first
    assert (first.version, first.categories, first.author) == (1, ANIMALS, "ada")
    larger = ANIMALS.extended([("bird", None)])
    second = catalog.categories.set(dataset, larger, expected_version=1)
    assert catalog.categories.history(dataset) == [second, first]
    assert catalog.categories.get(dataset, 1) == first
    assert len(catalog.categories.get(dataset, 0).categories) == 0
    with pytest.raises(NotFoundError, match="version 9"):
        catalog.categories.get(dataset, 9)
    with pytest.raises(NotFoundError, match="no dataset"):
        catalog.categories.set(99, ANIMALS, expected_version=0)


def test_of_two_changes_of_the_same_version_one_is_refused(catalog: Catalog, world: World) -> None:
    barrier = Barrier(2)

    def change(name: str) -> bool:
        barrier.wait()
        larger = ANIMALS.extended([(name, None)])
        try:
            catalog.categories.set(world.dataset.id, larger, expected_version=1)
        except StaleStateError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(change, ["bird", "fish"])) == [False, True]
    assert catalog.categories.current(world.dataset.id).version == 2


def test_a_category_with_labels_is_removed_only_if_its_masks_are_moved(
    catalog: Catalog, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.catalog.labels.CHUNK", 2)
    dataset = world.dataset.id
    rows = [label(world, f"dog{n}", 2) for n in range(5)]
    catalog.labels.add_many(dataset, [*rows, by_model(world, "guess", 2, score=0.7)])
    cats = ANIMALS.replaced(ANIMALS.categories[:1])
    with pytest.raises(CategoryInUseError):
        catalog.categories.set(dataset, cats, expected_version=1)
    with pytest.raises(CategoryInUseError):  # moved to another category that is removed too
        catalog.categories.set(dataset, CategoryList(), expected_version=1, moved={2: 1})
    assert catalog.labels.counts(dataset) == {2: 6}
    catalog.categories.set(dataset, cats, expected_version=1, moved={2: 1})
    assert catalog.labels.counts(dataset) == {1: 6}
    moved = catalog.labels.current(["guess"])["guess"]
    assert (moved.source, moved.model, moved.score) == (LabelSource.MODEL, "probe-1", None)
    catalog.categories.set(dataset, CategoryList(), expected_version=2, moved={1: None})
    assert catalog.labels.counts(dataset) == {None: 6}
    history = catalog.labels.history(world.image_ids[0], "dog0")
    assert [one.category_id for one in history] == [2, 1, None]


# Labels


def test_a_label_supersedes_the_one_before_and_both_stay(catalog: Catalog, world: World) -> None:
    ada = catalog.annotators.get_or_create("ada").id
    dataset = world.dataset.id
    assert catalog.labels.add_many(dataset, []) == 0
    first = label(world, "r/1/0", annotator_id=ada, seconds=1.5, task_id=7)
    assert catalog.labels.add_many(dataset, [first, label(world, "r/1/1", None)]) == 2
    assert catalog.labels.add_many(dataset, [label(world, "r/1/0", 2)]) == 1
    assert categories_of(catalog, "r/1/0", "r/1/1", "r/1/2") == {"r/1/0": 2, "r/1/1": None}
    old, new = catalog.labels.history(world.image_ids[0], "r/1/0")
    assert (old.annotator_id, old.seconds, old.task_id) == (ada, 1.5, 7)
    assert (old.superseded_by, new.superseded_by) == (new.id, None)
    assert catalog.labels.counts(dataset) == {2: 1, None: 1}
    assert set(catalog.labels.of_images([world.image_ids[0]])) == {"r/1/0", "r/1/1"}
    assert catalog.labels.of_images(world.image_ids[1:]) == {}


def test_a_tasks_labels_are_written_once(catalog: Catalog, world: World) -> None:
    dataset = world.dataset.id
    given = [label(world, "r/1/0", 1, task_id=7), label(world, "r/1/1", 1, task_id=8)]
    assert catalog.labels.add_many(dataset, given[:1], once_per_task=True) == 1
    catalog.labels.add_many(dataset, [label(world, "r/1/0", 2)])
    assert catalog.labels.add_many(dataset, given, once_per_task=True) == 1
    assert categories_of(catalog, "r/1/0", "r/1/1") == {"r/1/0": 2, "r/1/1": 1}
    again = label(world, "r/1/0", 1, task_id=9)
    assert catalog.labels.add_many(dataset, [again], once_per_task=True) == 1
    assert categories_of(catalog, "r/1/0") == {"r/1/0": 1}
    of_image = catalog.labels.history(world.image_ids[0])
    assert [one.mask_id for one in of_image] == ["r/1/0", "r/1/0", "r/1/1", "r/1/0"]


def test_a_models_label_supersedes_only_a_models(catalog: Catalog, world: World) -> None:
    dataset = world.dataset.id
    kept = [label(world, "p"), label(world, "i", source=LabelSource.IMPORTED)]
    catalog.labels.add_many(dataset, [*kept, by_model(world, "m")])
    new = [by_model(world, mask, 2) for mask in ("p", "i", "m", "new")]
    assert catalog.labels.add_many(dataset, new) == 2
    assert categories_of(catalog, "p", "i", "m", "new") == {"p": 1, "i": 1, "m": 2, "new": 2}
    assert catalog.labels.add_many(dataset, [label(world, "m", 1)]) == 1
    # one call with labels of both kinds
    both = [by_model(world, "m", 2), label(world, "p", 2)]
    assert catalog.labels.add_many(dataset, both) == 1
    assert categories_of(catalog, "p", "m") == {"p": 2, "m": 1}
    assert catalog.labels.counts(dataset, source=LabelSource.MODEL) == {2: 1}


def test_what_a_judge_confirmed_stays_until_a_person_speaks_and_peoples_answers_are_known(
    catalog: Catalog, world: World
) -> None:
    dataset, image_id = world.dataset.id, world.image_ids[0]
    judge = catalog.annotators.get_or_create("judge-1", kind=AnnotatorKind.MODEL).id
    first = catalog.labels.state(dataset).label_id
    catalog.labels.add_many(dataset, [by_model(world, mask, 1) for mask in ("a", "b", "c")])
    catalog.labels.add_many(
        dataset, [by_model(world, "a", 2), label(world, "free", 1), by_model(world, "d", 1)]
    )
    confirmed = [by_model(world, mask, 1, annotator_id=judge) for mask in ("b", "c")]
    assert catalog.labels.add_many(dataset, confirmed) == 2
    assert catalog.labels.count_of_annotator(dataset, judge, after_id=first) == 2
    assert catalog.labels.add_many(dataset, [by_model(world, "b", 2)]) == 0
    assert categories_of(catalog, "b") == {"b": 1}
    assert catalog.labels.answered_proposals(dataset) == []
    catalog.labels.add_many(dataset, [label(world, mask, 1) for mask in ("a", "b")])
    found = catalog.labels.answered_proposals(dataset)
    assert {one.mask_id: one.category_id for one in found} == {"a": 2, "b": 1}
    assert all(one.annotator_id is None for one in found), "of the model that proposed it"
    catalog.images.mark_complete(image_id, "run-1")
    assert catalog.images.complete_ids(dataset) == {image_id}
    assert catalog.images.complete_ids(dataset, run_id="run-2") == set()
    assert catalog.images.get(image_id).complete_run == "run-1"


def test_labels_can_be_given_to_unlabelled_masks_only(catalog: Catalog, world: World) -> None:
    catalog.labels.add_many(world.dataset.id, [label(world, "a", None)])
    rows = [label(world, "a"), label(world, "b")]
    assert catalog.labels.add_many(world.dataset.id, rows, only_unlabelled=True) == 1
    assert categories_of(catalog, "a", "b") == {"a": None, "b": 1}


def test_labels_count_as_they_were_at_an_earlier_id(catalog: Catalog, world: World) -> None:
    dataset = world.dataset.id
    assert catalog.labels.state(dataset) == (0, 1)
    catalog.labels.add_many(dataset, [label(world, "a"), label(world, "b")])
    then = catalog.labels.state(dataset).label_id
    catalog.labels.add_many(dataset, [label(world, "a", 2), label(world, "c", 2)])
    catalog.labels.add_many(dataset, [label(world, "a", None)])
    assert categories_of(catalog, "a", "b", "c") == {"a": None, "b": 1, "c": 2}
    assert categories_of(catalog, "a", "b", "c", as_of=then) == {"a": 1, "b": 1}
    assert catalog.labels.of_images(world.image_ids, as_of=0) == {}


def test_pages_of_a_category_have_each_of_its_masks_once(catalog: Catalog, world: World) -> None:
    rows = [label(world, f"m{n}", 1 + n % 2) for n in range(10)]
    catalog.labels.add_many(world.dataset.id, rows)
    found: list[Label] = []
    while page := catalog.labels.of_category(
        world.dataset.id, 2, after_id=found[-1].id if found else 0, limit=2
    ):
        found += page
    assert [one.mask_id for one in found] == ["m1", "m3", "m5", "m7", "m9"]


def test_bad_labels_are_refused_and_nothing_is_written(catalog: Catalog, world: World) -> None:
    dataset = world.dataset.id
    good = label(world, "good")
    with pytest.raises(CategoryError, match="no category with id 3"):
        catalog.labels.add_many(dataset, [good, label(world, "a", 3)])
    with pytest.raises(ValueError, match="the same mask"):
        catalog.labels.add_many(dataset, [good, good])
    with pytest.raises(ConstraintError):
        catalog.labels.add_many(dataset, [good, label(world, "a", image_id=10_000)])
    with pytest.raises(NotFoundError):
        catalog.labels.add_many(99, [good])
    for bad in ({"score": 1.1}, {"score": float("nan")}, {"seconds": -1.0}, {"model": "m"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            label(world, "a", **bad)
    assert catalog.labels.counts(dataset) == {}


def test_people_who_label_a_mask_at_once_leave_one_label_that_counts(
    catalog: Catalog, world: World
) -> None:
    barrier, masks = Barrier(4), [f"m{n}" for n in range(50)]

    def give(number: int) -> int:
        barrier.wait()
        order = masks if number % 2 else masks[::-1]
        rows = [label(world, mask, 1 + number % 2) for mask in order]
        return catalog.labels.add_many(world.dataset.id, rows)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(give, range(4))) == [50] * 4
    assert sum(catalog.labels.counts(world.dataset.id).values()) == 50
    for mask in masks[:3]:
        history = catalog.labels.history(world.image_ids[0], mask)
        assert [one.superseded_by for one in history] == [one.id for one in history[1:]] + [None]


def test_ten_thousand_masks_are_labelled_again_in_seconds(catalog: Catalog, world: World) -> None:
    masks = [f"run/1/{number}" for number in range(10_000)]
    began = time.monotonic()
    for category in (1, 2):
        rows = [label(world, mask, category) for mask in masks]
        assert catalog.labels.add_many(world.dataset.id, rows) == len(masks)
    assert time.monotonic() - began < 20  # 1 to 2 on a quiet machine
    assert catalog.labels.counts(world.dataset.id) == {2: len(masks)}


def test_erasing_deletes_the_labels_of_images_and_datasets_and_renames_authors(
    catalog: Catalog, world: World
) -> None:
    ada, dataset = catalog.annotators.get_or_create("ada").id, world.dataset.id
    larger = ANIMALS.extended([("bird", None)])
    catalog.categories.set(dataset, larger, expected_version=1, author="ada")
    one, two, _ = world.image_ids
    rows = [label(world, "a", annotator_id=ada), label(world, "b", image_id=two)]
    catalog.labels.add_many(dataset, rows)
    catalog.labels.add_many(dataset, [label(world, "a", 2)])
    forget_images(catalog, [one], [], [])
    assert categories_of(catalog, "a", "b") == {"b": 1}
    forget_person(catalog, ada, "ada", "erased-1")
    assert catalog.categories.current(dataset).author == "erased-1"
    forget_dataset(catalog, dataset, world.dataset.name)
    with catalog.reading() as session:
        for table in (LabelRow, CategoryListRow):
            assert session.scalar(select(func.count()).select_from(table)) == 0
