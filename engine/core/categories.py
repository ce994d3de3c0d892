"""Categories: the names that masks of a dataset can have, as one list.

An id means the same category in the dataset for ever: a rename keeps it, and the id of a removed
category is never given again.
"""

from __future__ import annotations

import colorsys
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from engine.core.errors import DataEngineError

MOST_CATEGORIES = 5_000
"""In one list."""
MOST_NAME_CHARACTERS = 200
MOST_DESCRIPTION_CHARACTERS = 2_000
KEYS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Keys of the keyboard that a category can have."""
NONE_OF_THESE = "none of these"
"""The label of a mask that belongs to no category of the list; no category has this name."""
UNLABELLED = "unlabelled"
"""Name that no category has: in exports it is that of masks without a category."""
MOST_ID = 2**31 - 1
"""The largest number that the catalog's column holds."""
_COLOR = re.compile(r"#[0-9a-f]{6}")
_TURN = 0.618034
"""Golden ratio: hues of successive ids are far apart."""


class CategoryError(DataEngineError, ValueError):
    """A category or a list of them is not allowed; nothing was changed. The message says which and
    why: correct the file or the request.

    Attributes:
        position: index of the category in the list, if one is at fault.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """One category.

    Attributes:
        id: from 1, unique in the dataset for ever.
        name: as `clean_name` returns it.
        color: `#rrggbb`; empty: that of the id, `default_color`.
        key: one of KEYS that labels a mask, or None.
        parent: id of a wider category, or None.
        description: what belongs to it, for annotators, or None.

    Raises:
        CategoryError: a value is not allowed.
    """

    id: int
    name: str
    color: str = ""
    key: str | None = None
    parent: int | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if type(self.id) is not int or not 1 <= self.id <= MOST_ID:
            raise CategoryError(f"the id {self.id!r:.40} is not a whole number from 1")
        if clean_name(self.name) != self.name:
            raise CategoryError(f"the name {self.name!r} is not in Unicode's composed form")
        object.__setattr__(self, "color", self.color or default_color(self.id))
        if not isinstance(self.color, str) or not _COLOR.fullmatch(self.color):
            raise CategoryError(f"{self.name!r}: the color {self.color!r:.40} is not like #1f77b4")
        if self.key is not None and (self.key not in tuple(KEYS)):
            raise CategoryError(f"{self.name!r}: the key {self.key!r:.40} is not one of 0-9 or a-z")
        if self.parent is not None and type(self.parent) is not int:
            raise CategoryError(f"{self.name!r}: the parent {self.parent!r:.40} is not an id")
        text = self.description
        if text is not None and (
            not isinstance(text, str) or len(text) > MOST_DESCRIPTION_CHARACTERS
        ):
            raise CategoryError(
                f"{self.name!r}: a description is text of at most {MOST_DESCRIPTION_CHARACTERS} "
                "characters"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryList:
    """A dataset's categories, in the order in which people see them.

    Attributes:
        categories: the categories.
        retired: names of removed categories by id; their ids are not given again.

    Raises:
        CategoryError: two categories have the same id, name or key, a parent is missing or its own
            descendant, or there are more than MOST_CATEGORIES.
    """

    categories: tuple[Category, ...] = ()
    retired: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        if len(self.categories) > MOST_CATEGORIES:
            raise CategoryError(
                f"the list has {len(self.categories)} categories, and {MOST_CATEGORIES} is the most"
            )
        _refuse_repeats(self.categories)
        _check_parents(self.categories)
        gone = dict(self.retired)
        for position, category in enumerate(self.categories):
            if category.id in gone:
                raise CategoryError(
                    f"{category.name!r}: the id {category.id} was that of {gone[category.id]!r}, "
                    "which was removed, and is not given again: leave the id out",
                    position,
                )

    def __len__(self) -> int:
        return len(self.categories)

    def get(self, category_id: int | None) -> Category | None:
        """The category with this id, or None."""
        return next((one for one in self.categories if one.id == category_id), None)

    def named(self, name: str) -> Category | None:
        """The category of this name, in any case and Unicode form, or None."""
        wanted = name_key(name)
        return next((one for one in self.categories if name_key(one.name) == wanted), None)

    @property
    def names(self) -> dict[int, str]:
        """Names by id, in order."""
        return {one.id: one.name for one in self.categories}

    @property
    def next_id(self) -> int:
        """The smallest id above all that the dataset has ever had."""
        known = [one.id for one in self.categories] + [number for number, _ in self.retired]
        return max(known, default=0) + 1

    def replaced(self, categories: Iterable[Category]) -> CategoryList:
        """The next version of the list, with these categories; those that are missing are retired.

        Raises:
            CategoryError: as the class.
        """
        new = tuple(categories)
        kept = {one.id for one in new}
        gone = [(one.id, one.name) for one in self.categories if one.id not in kept]
        return CategoryList(categories=new, retired=(*self.retired, *gone))

    def extended(self, names: Sequence[tuple[str, str | None]]) -> CategoryList:
        """The list with the categories that it lacks, each given by its name and that of its
        parent; the same object if it lacks none. Known categories stay as they are.

        Raises:
            CategoryError: as the class.
        """
        found = {name_key(one.name): one for one in self.categories}
        number, fresh = self.next_id, set[int]()
        for name in dict.fromkeys(part for pair in names for part in pair[::-1] if part):
            if name_key(name) not in found:
                found[name_key(name)] = Category(id=number, name=clean_name(name))
                fresh.add(number)
                number += 1
        for name, parent in names:
            one = found[name_key(name)]
            if parent and one.id in fresh and one.parent is None:
                above = found[name_key(parent)].id
                found[name_key(name)] = replace(one, parent=None if above == one.id else above)
        return self.replaced(found.values()) if fresh else self

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return {
            "categories": [
                {key: value for key, value in asdict(one).items() if value is not None}
                for one in self.categories
            ],
            "retired": [{"id": number, "name": name} for number, name in self.retired],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The list of a stored form; unknown fields are ignored.

        Raises:
            CategoryError: it is damaged.
        """
        known = {field.name for field in fields(Category)}
        try:
            return cls(
                categories=tuple(
                    Category(**{key: value for key, value in one.items() if key in known})
                    for one in content["categories"]
                ),
                retired=tuple((int(one["id"]), str(one["name"])) for one in content["retired"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CategoryError(f"a stored category list is damaged: {error!r}") from error


def clean_name(name: object) -> str:
    """A category's name without spaces at its ends, in Unicode's composed form (NFC).

    Raises:
        CategoryError: it is no text, empty, too long, reserved, or has a control character.
    """
    if not isinstance(name, str):
        raise CategoryError(f"the name {name!r:.40} is no text: put it in quotes")
    clean = unicodedata.normalize("NFC", name).strip()
    if not clean:
        raise CategoryError("a name is empty")
    if len(clean) > MOST_NAME_CHARACTERS:
        raise CategoryError(
            f"the name {clean[:40]!r}... has {len(clean)} characters, and {MOST_NAME_CHARACTERS} "
            "is the most"
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in clean):
        raise CategoryError(f"the name {clean!r:.60} has a control character")
    if name_key(clean) in (UNLABELLED, NONE_OF_THESE):
        raise CategoryError(f"{clean!r} is the name of masks without a category: choose another")
    return clean


def name_key(name: str) -> str:
    """Equal for names that count as the same: composed, case-folded, without spaces at the ends."""
    folded = unicodedata.normalize("NFC", name).strip().casefold()
    return unicodedata.normalize("NFC", folded)


def default_color(category_id: int) -> str:
    """A bright colour, `#rrggbb`, that depends on the id only."""
    lightness, saturation = (0.62, 0.5)[category_id // 8 % 2], (0.75, 0.55)[category_id // 16 % 2]
    parts = colorsys.hls_to_rgb(category_id * _TURN % 1.0, lightness, saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _refuse_repeats(categories: Sequence[Category]) -> None:
    ids: dict[int, str] = {}
    names: dict[str, str] = {}
    keys: dict[str, str] = {}
    for position, one in enumerate(categories):
        if one.id in ids:
            text = f"{ids[one.id]!r} and {one.name!r} have the same id {one.id}"
            raise CategoryError(text, position)
        if (key := name_key(one.name)) in names:
            text = f"two categories are named {one.name!r}"
            if names[key] != one.name:
                text += f" ({names[key]!r} counts as the same name)"
            raise CategoryError(text, position)
        if one.key is not None and one.key in keys:
            text = f"{keys[one.key]!r} and {one.name!r} have the same key {one.key!r}"
            raise CategoryError(text, position)
        ids[one.id], names[key] = one.name, one.name
        if one.key is not None:
            keys[one.key] = one.name


def _check_parents(categories: Sequence[Category]) -> None:
    parents = {one.id: one.parent for one in categories}
    rooted = set[int]()
    for position, one in enumerate(categories):
        seen: dict[int, None] = {}
        number: int | None = one.id
        while number is not None and number not in rooted:
            if number in seen:
                raise CategoryError(f"{one.name!r} is below itself: change a parent", position)
            if number not in parents:
                raise CategoryError(
                    f"{one.name!r}: its parent, id {number}, is not in the list", position
                )
            seen[number] = None
            number = parents[number]
        rooted.update(seen)
