"""A category list as a file for people: YAML or JSON.

A list of names, or of mappings with `name` and, if wanted, `id`, `key`, `color`, `parent` (a name
or an id), `description`, and `was` (the old name, for a rename).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from engine.core.categories import (
    MOST_CATEGORIES,
    Category,
    CategoryError,
    CategoryList,
    clean_name,
    name_key,
)

FIELDS = ("name", "id", "key", "color", "parent", "description", "was")
MAX_BYTES = 8 << 20


class CategoryFileError(CategoryError):
    """The file is no category list, or does not suit the dataset's; nothing was changed. The
    message names the file, the line and the fault."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One category of the file: where it is, as words, and its fields."""

    where: str
    values: dict[str, Any]


def read_category_file(path: Path) -> list[Entry]:
    """The entries of a file; their values are checked by `merge_entries`.

    Raises:
        CategoryFileError: it is no list of names and mappings, or too large.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CategoryFileError(f"{path}: more than {MAX_BYTES >> 20} MiB: no list of categories")
    try:
        text = data.decode("utf-8-sig")
        content, places = _json(text) if path.suffix.lower() == ".json" else _yaml(text)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        fault = " ".join(str(error).split())
        raise CategoryFileError(f"{path} cannot be read as a list: {fault}") from error
    if not isinstance(content, list):
        raise CategoryFileError(
            f"{path} is no list: write one category a line, each after a dash, as in `- cat`"
        )
    return [_entry(path, *pair) for pair in zip(places, content, strict=True)]


def merge_entries(path: Path, entries: list[Entry], present: CategoryList) -> CategoryList:
    """The next version of a dataset's list: the entries in their order, matched to the present
    categories by id, else by `was`, else by name. Fields that an entry lacks stay as they are.

    Args:
        path: of the file, for messages.
        entries: of the file.
        present: the list in use.

    Raises:
        CategoryFileError: an entry is not allowed, or does not suit the present list.
    """
    if len(entries) > MOST_CATEGORIES:
        raise CategoryFileError(
            f"{path}: {len(entries)} categories, and {MOST_CATEGORIES} is the most"
        )
    names = {name_key(one.name): one for one in present.categories}
    ids = {one.id: one for one in present.categories}
    matched: list[Category | None] = []
    for entry in entries:
        with _at(path, entry):
            matched.append(_match(entry.values, names, ids))
    numbers = _numbers(path, entries, matched, present)
    made: list[Category] = []
    for entry, known, number in zip(entries, matched, numbers, strict=True):
        with_id = replace(known, parent=None) if known else None
        with _at(path, entry):
            made.append(_category(entry.values, number, with_id))
    parents = _parents(path, entries, matched, made)
    whole = [replace(one, parent=parent) for one, parent in zip(made, parents, strict=True)]
    try:
        return present.replaced(whole)
    except CategoryError as error:
        place = "" if error.position is None else f", {entries[error.position].where}"
        raise CategoryFileError(f"{path}{place}: {error}") from error


@contextmanager
def _at(path: Path, entry: Entry) -> Iterator[None]:
    """Adds the file and the line to errors."""
    try:
        yield
    except CategoryFileError:
        raise
    except CategoryError as error:
        raise CategoryFileError(f"{path}, {entry.where}: {error}") from error


def _yaml(text: str) -> tuple[Any, list[str]]:
    """What `yaml.safe_load` returns, and the lines of the list's items."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        items = node.value if isinstance(node, yaml.SequenceNode) else []
        places = [f"line {item.start_mark.line + 1}" for item in items]
        return loader.construct_document(node), places
    finally:
        loader.dispose()


def _json(text: str) -> tuple[Any, list[str]]:
    content = json.loads(text)
    count = len(content) if isinstance(content, list) else 0
    return content, [f"entry {number}" for number in range(1, count + 1)]


def _entry(path: Path, where: str, item: object) -> Entry:
    if isinstance(item, str):
        return Entry(where, {"name": item})
    if not isinstance(item, dict):
        raise CategoryFileError(
            f"{path}, {where}: {item!r:.40} is neither a name nor a mapping with a name; a name "
            "such as 12, yes or no needs quotes"
        )
    if unknown := [key for key in item if key not in FIELDS]:
        raise CategoryFileError(
            f"{path}, {where}: unknown field {unknown[0]!r:.40}; known ones: {', '.join(FIELDS)}"
        )
    if "name" not in item:
        raise CategoryFileError(f"{path}, {where}: a category needs a name")
    if item.get("color", "") is None:
        raise CategoryFileError(
            f'{path}, {where}: a color needs quotes, as in color: "#1f77b4", because # begins a '
            "comment"
        )
    return Entry(where, item)


def _match(
    values: dict[str, Any], names: dict[str, Category], ids: dict[int, Category]
) -> Category | None:
    """The present category that an entry means; None: it is new."""
    number, was = values.get("id"), values.get("was")
    named = names.get(name_key(clean_name(values["name"])))
    if number is not None:
        found = ids.get(number) if type(number) is int else None
        if found is None and named is not None:
            text = f"{named.name!r} has the id {named.id}, which never changes, not {number!r:.40}"
            raise CategoryError(text)
        return found
    if was is not None:
        before = names.get(name_key(clean_name(was)))
        if before is None and named is None:
            raise CategoryError(f"`was` names {was!r:.60}, and no category has that name")
        return before or named
    return named


def _numbers(
    path: Path, entries: list[Entry], matched: list[Category | None], present: CategoryList
) -> list[Any]:
    """The ids of the entries; new ones without an id get those above all others."""
    seen: dict[int, Entry] = {}
    for entry, known in zip(entries, matched, strict=True):
        if known is not None and known.id in seen:
            raise CategoryFileError(
                f"{path}, {entry.where}: it means {known.name!r}, like {seen[known.id].where}"
            )
        if known is not None:
            seen[known.id] = entry
    given = [entry.values.get("id") for entry in entries]
    following = max([present.next_id, *(n + 1 for n in given if type(n) is int)])
    numbers: list[Any] = []
    for known, number in zip(matched, given, strict=True):
        if known is None and number is None:
            number, following = following, following + 1
        numbers.append(known.id if known else number)
    return numbers


def _category(values: dict[str, Any], number: Any, known: Category | None) -> Category:
    fresh = {name: values[name] for name in ("color", "key", "description") if name in values}
    if type(fresh.get("key")) is int:  # `key: 1` in YAML
        fresh["key"] = str(fresh["key"])
    if isinstance(fresh.get("color"), str):
        fresh["color"] = fresh["color"].lower()
    name = clean_name(values["name"])
    if known is not None:
        return replace(known, name=name, **fresh)
    return Category(id=number, name=name, **fresh)


def _parents(
    path: Path, entries: list[Entry], matched: list[Category | None], made: list[Category]
) -> list[int | None]:
    """The ids of the parents, which the file names in any order. A parent that is not mentioned
    stays while it is in the list."""
    by_name = {name_key(one.name): one.id for one in made}
    ids = {one.id for one in made}
    found: list[int | None] = []
    for entry, known in zip(entries, matched, strict=True):
        if "parent" not in entry.values:
            kept = known.parent if known else None
            found.append(kept if kept in ids else None)
            continue
        wanted = entry.values["parent"]
        number = by_name.get(name_key(wanted)) if isinstance(wanted, str) else wanted
        if wanted is not None and (type(number) is not int or number not in ids):
            raise CategoryFileError(
                f"{path}, {entry.where}: the parent {wanted!r:.60} is not in the file"
            )
        found.append(number)
    return found
