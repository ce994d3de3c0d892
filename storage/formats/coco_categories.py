"""The categories of a COCO file: their names, and the name that an annotation has.

A file of other tools may have none, twice the same, or numbers that it does not list; each fault is
a problem, and the masks stay, without a label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from engine.core.categories import UNLABELLED, CategoryError, clean_name, name_key
from storage.formats.coco_annotations import Problem, id_of, label_of, plain_id
from storage.formats.segmentation import json_type

UNKNOWN_CATEGORY = "annotations of no category of the file (their masks have no label)"
BAD_CATEGORY = "categories of the file that are no usable name"
SAME_CATEGORY = "categories of the file that have the same name or id"
AGNOSTIC = "object"
"""Name of the only category of class-agnostic files."""


class FileCategories:
    """The categories of one file.

    Attributes:
        names: name and parent's name of each, in order; empty for a class-agnostic file: one
            without categories, or whose only one is named `object`.
        problems: of the file's list.
    """

    def __init__(self, entries: object = None, annotations: Iterable[object] = ()) -> None:
        self.names: list[tuple[str, str | None]] = []
        self.problems: list[Problem] = []
        self._by_id: dict[str, str | None] = {}
        if entries and isinstance(entries, list):
            self._read(entries)
        elif entries:
            what = f"'categories' is a {json_type(entries)}, not a list"
            self.problems.append(Problem(BAD_CATEGORY, what))
        elif any(isinstance(one, dict) and "category_id" in one for one in annotations):
            what = "no 'categories' in the file: the category ids of its annotations mean nothing"
            self.problems.append(Problem(UNKNOWN_CATEGORY, what))
        if [name_key(name) for name, _ in self.names] == [AGNOSTIC]:
            self.names = []
            self.problems = []

    def name_of(self, number: int, annotation: dict[str, Any]) -> tuple[str | None, Problem | None]:
        """The name of an annotation's category, if it has one, and what is wrong with it.

        Args:
            number: its index in the file.
            annotation: the annotation.
        """
        if not self.names:
            return None, None
        written = id_of(annotation.get("category_id"))
        if written is not None and plain_id(written) in self._by_id:
            return self._by_id[plain_id(written)], None
        given = annotation.get("category_id")
        text = f"{label_of(number, annotation)}: its category id {given!r:.40} is not in the file"
        return None, Problem(UNKNOWN_CATEGORY, text)

    def _read(self, entries: list[Any]) -> None:
        ids = Counter(map(_id_of, entries))
        known: dict[str, str] = {}
        for number, entry in enumerate(entries):
            place = f"category number {number}"
            key = _id_of(entry)
            try:
                if key is None:
                    raise CategoryError("it has no usable 'id'")
                if _is_unlabelled(entry.get("name")):
                    self._by_id[key] = None
                    continue
                name = clean_name(entry.get("name"))
            except CategoryError as error:
                self.problems.append(Problem(BAD_CATEGORY, f"{place}: {error}"))
                continue
            if ids[key] > 1:
                text = f"{place}, {name!r}: several categories have the id {key}"
                self.problems.append(Problem(SAME_CATEGORY, text))
            elif name_key(name) in known:
                text = f"{place}: {name!r} is named twice; both are one category"
                self.problems.append(Problem(SAME_CATEGORY, text))
            if name_key(name) not in known:
                known[name_key(name)] = name
                self.names.append((name, _parent_of(entry, name)))
            self._by_id[key] = known[name_key(name)] if ids[key] == 1 else None


def _id_of(entry: object) -> str | None:
    found = id_of(entry.get("id")) if isinstance(entry, dict) else None
    return None if found is None else plain_id(found)


def _is_unlabelled(name: object) -> bool:
    return isinstance(name, str) and name_key(name) == UNLABELLED


def _parent_of(entry: dict[str, Any], name: str) -> str | None:
    """The supercategory, if it is another usable name. Tools write an empty one or "none" for
    none."""
    wider = entry.get("supercategory")
    if not isinstance(wider, str) or name_key(wider) in ("", "none", name_key(name)):
        return None
    try:
        return clean_name(wider)
    except CategoryError:
        return None
