"""`dataengine labels`: category lists from files, renames, removals, counts and history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from engine.core import rle as rle_codec
from engine.core.categories import CategoryError, CategoryList
from engine.core.errors import DataEngineError
from engine.core.records import Mask, Provenance, Source, Stage
from flows.cli.main import app
from flows.labels.current import label_counts, labels_of
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage.catalog import LabelSource, NewLabel, StaleStateError
from tests.contract.database_fixtures import new_image
from tests.flows.conftest import make_workspace

CLASSES = """
- car
- name: Lkw 猫
  key: 1
  color: "#FF0000"
  parent: vehicle
  description: with a loading bed
- vehicle
"""


@pytest.fixture
def photos(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The id of the dataset `photos` with two images; commands run in its workspace."""
    monkeypatch.chdir(workspace.settings.root)
    row = workspace.catalog.datasets.get_or_create("photos")
    workspace.catalog.images.add_many(row.id, [new_image(1), new_image(2)])
    yield row
    progress.use(progress.Silent())


def run(*words: str) -> Result:
    return CliRunner().invoke(
        app, ["labels", *words, "--dataset", "photos"], catch_exceptions=False
    )


def set_to(text: str, *more: str, name: str = "classes.yaml") -> dict[str, Any]:
    Path(name).write_text(text)
    result = run("set", name, *more, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def shown() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("show", "--json").stdout)["categories"]
    return found


def ids() -> dict[str, int]:
    return {one["name"]: one["id"] for one in shown()}


def give(workspace: Workspace, photos: Any, masks: list[str], category: str | None) -> None:
    number = None if category is None else ids()[category]
    rows = [
        NewLabel(mask_id=m, image_id=1, category_id=number, source=LabelSource.ANNOTATOR)
        for m in masks
    ]
    workspace.catalog.labels.add_many(photos.id, rows)


def test_a_file_sets_the_list_and_the_same_file_changes_nothing(photos: Any) -> None:
    assert "has no categories" in run("show").stdout
    made = set_to(CLASSES)
    assert (made["version"], made["added"]) == (1, ["car", "Lkw 猫", "vehicle"])
    car, lorry, vehicle = shown()
    assert [car["id"], lorry["id"], vehicle["id"]] == [1, 2, 3]
    assert lorry | {"masks": 0} == lorry
    assert (lorry["key"], lorry["color"], lorry["parent"]) == ("1", "#ff0000", "vehicle")
    again = set_to(CLASSES)
    assert (again["version"], again["changed"]) == (1, False)
    # names alone keep colours, keys and parents
    assert set_to("[vehicle, car, lkw 猫]")["renamed"] == [["Lkw 猫", "lkw 猫"]]
    assert shown()[2] == lorry | {"name": "lkw 猫"}
    # null takes a field away
    set_to("[vehicle, car, {name: lkw 猫, parent: null, key: null}]")
    assert (shown()[2]["parent"], shown()[2]["key"]) == (None, None)
    assert "lkw 猫" in run("show").stdout


def test_a_rename_keeps_the_id_and_the_labels(workspace: Workspace, photos: Any) -> None:
    set_to("- cat\n- dog\n")
    give(workspace, photos, ["a"], "cat")
    renamed = set_to("- {name: tomcat, was: CAT}\n- dog\n")
    assert (renamed["renamed"], renamed["added"], renamed["removed"]) == (
        [["cat", "tomcat"]],
        [],
        [],
    )
    set_to("- {name: tomcat, was: CAT}\n- dog\n")  # repeated, it means the same
    by_id = json.dumps([{"id": 1, "name": "dog", "key": "d"}, {"id": 2, "name": "tomcat"}])
    swapped = set_to(by_id, name="classes.json")
    assert swapped["renamed"] == [["tomcat", "dog"], ["dog", "tomcat"]]
    assert [(one["name"], one["masks"]) for one in shown()] == [("dog", 1), ("tomcat", 0)]


def test_a_removed_category_with_labels_needs_a_word_on_its_masks(
    workspace: Workspace, photos: Any
) -> None:
    set_to("[cat, dog, bird]")
    give(workspace, photos, ["a", "b"], "dog")
    give(workspace, photos, ["c"], "cat")
    Path("less.yaml").write_text("[cat]")
    with pytest.raises(CategoryError, match=r"dog \(2\); say what these masks get"):
        run("set", "less.yaml")
    with pytest.raises(CategoryError, match="no category of the new list is named 'dog'"):
        run("set", "less.yaml", "--removed-to", "dog")
    assert run("set", "less.yaml", "--removed-to", "cat", "--unlabel").exit_code == 2
    assert list(ids()) == ["cat", "dog", "bird"]

    result = run("set", "less.yaml", "--removed-to", "Cat")
    assert "dog (2)" in result.stdout
    assert [(one["name"], one["masks"]) for one in shown()] == [("cat", 3)]
    assert set_to("[wolf]", "--unlabel")["labels_moved"] == 3
    assert label_counts(workspace, photos) == {None: 3}
    # ids of removed categories are not given again
    assert set_to("[wolf, dog]")["added"] == ["dog"]
    assert ids() == {"wolf": 4, "dog": 5}

    versions = json.loads(run("history", "--json").stdout)["versions"]
    assert [row["version"] for row in versions] == [4, 3, 2, 1]
    assert (versions[1]["added"], versions[1]["removed"]) == (["wolf"], ["cat"])
    assert "removed dog, bird" in " ".join(run("history").stdout.split())


@pytest.fixture(scope="module")
def one_category(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace for refused changes: `photos` has the category `one`, and had `two`."""
    workspace = make_workspace(tmp_path_factory.mktemp("labels") / "ws")
    row = workspace.catalog.datasets.get_or_create("photos")
    both = CategoryList().extended([("one", None), ("two", None)])
    workspace.catalog.categories.set(row.id, both, expected_version=0)
    one = both.replaced(both.categories[:1])
    workspace.catalog.categories.set(row.id, one, expected_version=1)
    yield workspace
    progress.use(progress.Silent())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no list"),
        ("cat: 1", "is no list"),
        ("- cat\n- [dog", "cannot be read as a list"),
        ("!!python/object/apply:os.system [ls]", "cannot be read as a list"),
        ("- cat\n- dog\n- CAT\n", "line 3: two categories are named 'CAT'"),
        ("- cat\n- yes\n", "line 2: True is neither a name nor a mapping"),
        ("- cat\n- name: 12\n", "line 2: the name 12 is no text: put it in quotes"),
        ("- cat\n\n# pets\n- {name: dog, parent: animal}", "line 4: the parent 'animal' is not in"),
        ("- {name: dog, parent: 7}", "line 1: the parent 7 is not in the file"),
        ("- {name: a, parent: b}\n- {name: b, parent: a}", "line 1: 'a' is below itself"),
        ("- name: cat\n  colour: red\n", "line 1: unknown field 'colour'; known ones: name, id"),
        ("- name: cat\n  color: #ff0000\n", "line 1: a color needs quotes"),
        ("- {name: cat, color: red}", "line 1: 'cat': the color 'red' is not like"),
        ("- {name: cat, key: F1}", "line 1: 'cat': the key 'F1' is not one of 0-9 or a-z"),
        ("- {name: a, key: 1}\n- {name: b, key: '1'}", "line 2: 'a' and 'b' have the same key"),
        ("- {color: '#123456'}", "line 1: a category needs a name"),
        ("- {name: lion, was: tiger}", "line 1: `was` names 'tiger', and no category has that"),
        ("- {name: one, id: 9}", "'one' has the id 1, which never changes, not 9"),
        ("- {name: new, id: 2}\n- one", "the id 2 was that of 'two', which was removed"),
        ("- {name: new, id: x}", "the id 'x' is not a whole number"),
        ("- one\n- {name: uno, was: one}", "line 2: it means 'one', like line 1"),
        ("\n".join(f"- c{n}" for n in range(10_000)), "10000 categories, and 5000 is the most"),
    ],
)
def test_a_bad_file_is_refused_with_the_line_and_changes_nothing(
    one_category: Workspace, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(one_category.settings.root)
    Path("bad.yaml").write_text(text)
    with pytest.raises(DataEngineError) as caught:
        run("set", "bad.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("bad.yaml")
    present = one_category.catalog.categories.current(1)
    assert (present.version, present.categories.names) == (2, {1: "one"})


def test_a_json_file_names_the_entry_at_fault(photos: Any) -> None:
    Path("bad.json").write_text('["cat", "dog", "Dog"]')
    with pytest.raises(CategoryError, match=r"bad\.json, entry 3: two categories are named 'Dog'"):
        run("set", "bad.json")
    Path("bytes.yaml").write_bytes(b"- caf\xe9\n")
    with pytest.raises(CategoryError, match=r"bytes\.yaml cannot be read"):
        run("set", "bytes.yaml")
    assert run("set", "missing.yaml").exit_code == 2
    with pytest.raises(DataEngineError, match="no dataset"):
        CliRunner().invoke(
            app, ["labels", "set", "bad.json", "--dataset", "typo"], catch_exceptions=False
        )


def mask(name: str, supersedes: str | None = None, side: int = 4) -> Mask:
    pixels = np.zeros((8, 8), bool)
    pixels[:side, :side] = True
    origin = Provenance(
        dataset="photos", stage=Stage.ASSISTED_MANUAL, run_id="r", source=Source.ANNOTATOR
    )
    return origin.mask(1, name, rle_codec.encode(pixels), supersedes=supersedes)


def test_a_fixed_mask_has_the_label_of_the_nearest_mask_before_it(
    workspace: Workspace, photos: Any
) -> None:
    set_to("[cat, dog]")
    first, fix, other = mask("first"), mask("fix", "r/1/first"), mask("other")
    again = mask("again", fix.mask_id)
    gone, erased = mask("gone"), mask("erased", "r/1/gone", side=0)
    masks = [first, fix, again, other, gone, erased]
    workspace.masks.commit(masks, run_id="r", shard=0)
    give(workspace, photos, [first.mask_id, gone.mask_id], "cat")

    def named() -> dict[str, int | None]:
        found = labels_of(workspace, [again, fix, other])
        return {key.rpartition("/")[2]: label.category_id for key, label in found.items()}

    assert named() == {"again": 1, "fix": 1}
    assert label_counts(workspace, photos) == {1: 1}  # `first` and `gone` are superseded
    then = workspace.catalog.labels.state(photos.id).label_id
    give(workspace, photos, [fix.mask_id], "dog")
    assert named() == {"again": 2, "fix": 2}
    assert label_counts(workspace, photos) == {2: 1}
    give(workspace, photos, [again.mask_id, other.mask_id], None)
    assert named() == {"again": None, "fix": 2, "other": None}
    assert label_counts(workspace, photos) == {None: 2}
    before = labels_of(workspace, [again], as_of=then)
    assert before[again.mask_id].category_id == 1


def test_a_change_that_another_one_overtakes_is_refused(workspace: Workspace, photos: Any) -> None:
    from flows.labels.categories import plan_categories, set_categories

    set_to("[cat]")
    Path("more.yaml").write_text("[cat, dog]")
    plan = plan_categories(workspace, "photos", Path("more.yaml"))
    set_to("[cat, bird]")
    with pytest.raises(StaleStateError, match="version 2 of the category list is in use, not 1"):
        set_categories(workspace, plan)
    # a label that appears after the plan
    Path("less.yaml").write_text("[cat]")
    plan = plan_categories(workspace, "photos", Path("less.yaml"))
    give(workspace, photos, ["a"], "bird")
    with pytest.raises(StaleStateError, match="removed categories"):
        set_categories(workspace, plan)
    assert list(ids()) == ["cat", "bird"]
