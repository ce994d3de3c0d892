"""The annotations of each image of an annotation file, in memory or still in the file."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from storage.formats.coco_annotations import (
    UNUSABLE,
    CocoImage,
    Picture,
    Problem,
    id_of,
    label_of,
    plain_id,
)

UNKNOWN_IMAGE = "annotations of images that the file does not have"

Numbered = tuple[int, dict[str, Any]]
"""An annotation as COCO has it, and its place in the file."""


class Held(Protocol):
    """Annotations by image."""

    def of(self, image: CocoImage, picture: Picture | None = None) -> list[Numbered]:
        """An image's annotations; formats whose unit is a share of the image need the picture, and
        have none without it."""


class InFile:
    """Annotations that stay in their JSON file: what is in memory is where they are.

    Call `add` for each, then `settle` once.

    Attributes:
        problems: one for each annotation without an image.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begins, self._lengths = array("q"), array("q")
        self._owners: list[int | str | None] = []
        self._places: dict[int | str, int] = {}
        self.problems: list[Problem] = []

    def add(self, value: object, begin: int, end: int) -> None:
        """Take the next annotation of the file, which has these bytes."""
        number = len(self._owners)
        if not isinstance(value, dict):
            message = f"annotation number {number}: not a JSON object"
            self.problems.append(Problem(UNUSABLE, message))
        self._owners.append(id_of(value.get("image_id")) if isinstance(value, dict) else None)
        self._begins.append(begin)
        self._lengths.append(end - begin if isinstance(value, dict) else 0)

    def settle(self, images: Iterable[CocoImage]) -> None:
        """Find the image of each annotation: by its id, or by one that is written alike."""
        listed = [image.image_id for image in images]
        self._places = {image_id: place for place, image_id in enumerate(listed)}
        alike = Counter(map(plain_id, listed))
        loose = {plain_id(i): i for i in listed if alike[plain_id(i)] == 1}
        lengths = np.frombuffer(self._lengths, np.int64) if self._lengths else np.zeros(0, np.int64)
        places = np.full(len(self._owners), -1, np.int64)
        for number, written in enumerate(self._owners):
            if written is not None:
                known = written if written in self._places else loose.get(plain_id(written))
                places[number] = -1 if known is None else self._places[known]
        for number in np.flatnonzero((places < 0) & (lengths > 0)).tolist():
            annotation = self._read([number])[0][1]
            label, given = label_of(number, annotation), annotation.get("image_id")
            message = f"{label}: its image id {given!r:.40} is not in 'images'"
            self.problems.append(Problem(UNKNOWN_IMAGE, message))
        self._owners.clear()
        self._order = np.argsort(places, kind="stable")
        self._starts = np.searchsorted(places[self._order], np.arange(len(listed) + 1))

    def of(self, image: CocoImage, picture: Picture | None = None) -> list[Numbered]:
        place = self._places[image.image_id]
        return self._read(self._order[self._starts[place] : self._starts[place + 1]].tolist())

    def _read(self, numbers: list[int]) -> list[Numbered]:
        found = []
        with self._path.open("rb") as file:
            for number in numbers:
                file.seek(self._begins[number])
                found.append((number, json.loads(file.read(self._lengths[number]))))
        return found


class InMemory:
    """Annotations as lists by image id."""

    def __init__(self) -> None:
        self._by_image: dict[int | str, list[Numbered]] = defaultdict(list)

    def add(self, image_id: int | str, number: int, annotation: dict[str, Any]) -> None:
        """Take an annotation."""
        self._by_image[image_id].append((number, annotation))

    def of(self, image: CocoImage, picture: Picture | None = None) -> list[Numbered]:
        return self._by_image.get(image.image_id, [])
