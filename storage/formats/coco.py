"""COCO instance JSON: read annotations of other tools. `coco_writer` exports masks.

Format: https://cocodataset.org/#format-data. Reading is defensive: a bad annotation is skipped with
a reason; only a file that cannot be parsed as a whole raises. Annotations stay in the file until
their image is asked for.

H = height, W = width.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.errors import DataEngineError
from engine.core.rle import RLE
from storage.formats.coco_annotations import (
    CocoImage,
    Conventions,
    Picture,
    Problem,
    id_of,
    masks_of,
    side_of,
)
from storage.formats.coco_categories import FileCategories
from storage.formats.file_names import FileNames
from storage.formats.frames import size_is_turned, stored_size
from storage.formats.held_annotations import Held, InFile
from storage.formats.json_stream import Item, JsonStreamError, read_items
from storage.formats.other_tools import tool_of
from storage.formats.segmentation import json_type

AMBIGUOUS = "images whose name fits several"
REPLACED = "images that were replaced after they were annotated"


class BadAnnotationsError(DataEngineError, ValueError):
    """An annotation file cannot be parsed as a whole. The message names the file and the fault:
    show it to whoever made the file."""


@dataclass(frozen=True, slots=True)
class ImageAnnotations:
    """The annotations of one image file.

    Attributes:
        named: whether the COCO file names it.
        masks: its masks.
        problems: one per annotation that was skipped or looks wrong.
        names: of the category of each mask; None: it has none.
        name_problems: one per mask whose category is unknown.
    """

    named: bool
    masks: list[RLE]
    problems: list[Problem]
    names: list[str | None]
    name_problems: list[Problem]


class CocoDataset:
    """The images and annotations of one COCO file; masks are decoded on demand.

    Attributes:
        images: every image of the file.
        problems: of the file itself, one per annotation without an image; `find` returns those of
            single images.
        categories: the file's categories.
    """

    def __init__(
        self,
        images: Iterable[CocoImage],
        held: Held,
        files_on_disk: Iterable[str] = (),
        *,
        folder: Path | None = None,
        conventions: Conventions | None = None,
        categories: FileCategories | None = None,
        problems: Iterable[Problem] = (),
    ) -> None:
        self.images = tuple(images)
        self.categories = categories or FileCategories()
        self.problems = list(problems)
        self._conventions = conventions or Conventions()
        self._held = held
        self._names = FileNames([i.file_name for i in self.images], files_on_disk, folder)
        self._by_sha256: dict[str, list[CocoImage]] = defaultdict(list)
        for image in self.images:
            if image.sha256:
                self._by_sha256[image.sha256].append(image)
        self._by_content: set[int | str] = set()
        """Ids of images that `find` matched by content."""
        self._only_named: set[int] = set()
        """Indices of images matched by name to a file whose content is another image."""
        self._turned: bool | None = None

    def find(self, file_name: str, picture: Picture, sha256: str | None = None) -> ImageAnnotations:
        """The annotations of one image file.

        It is matched by content if the COCO file has SHA-256 sums, else by name, as
        `storage.formats.file_names` says.

        Args:
            file_name: path of the image file, relative to the images' folder.
            picture: its size; masks of any other size are skipped.
            sha256: of the image file, in hex, if known.
        """
        images, problems = self._images_of(file_name, picture, sha256)
        masks: list[RLE] = []
        names: list[str | None] = []
        name_problems: list[Problem] = []
        for image in images:
            held = self._held.of(image, picture)
            found, more = masks_of(image, held, picture, self._conventions, self._sizes_are_turned)
            problems += more
            for rle, number, annotation in found:
                name, problem = self.categories.name_of(number, annotation)
                masks.append(rle)
                names.append(name)
                name_problems += [problem] if problem else []
        return ImageAnnotations(bool(images), masks, problems, names, name_problems)

    def masks_for(self, file_name: str, size: tuple[int, int]) -> tuple[list[RLE], list[Problem]]:
        """Masks and problems, as from `find`, of an image of this (H, W) without EXIF rotation."""
        found = self.find(file_name, Picture(size))
        return found.masks, found.problems

    def missing(self) -> list[str]:
        """File names of the images that none of the files on disk belongs to, by what `find` found
        too, in the file's order."""
        numbers = sorted({*self._names.without_file(), *self._only_named})
        images = [self.images[number] for number in numbers]
        return [i.file_name for i in images if i.image_id not in self._by_content]

    def _images_of(
        self, file_name: str, picture: Picture, sha256: str | None
    ) -> tuple[list[CocoImage], list[Problem]]:
        numbers, doubt = self._names.find(file_name)
        if sha256 in self._by_sha256:
            same = self._by_sha256[sha256]
            self._names.settle(file_name)
            self._by_content.update(image.image_id for image in same)
            self._only_named.update(n for n in numbers if self.images[n] not in same)
            return same, []
        if doubt is not None:
            return [], [Problem(AMBIGUOUS, doubt)]
        named = [self.images[number] for number in numbers]
        images = [image for image in named if not (image.sha256 and sha256)]
        if named and not images:
            message = "another image of this name was annotated (its SHA-256 differs)"
            return [], [Problem(REPLACED, message)]
        if len(images) > 1:
            sizes = (None, picture.size, stored_size(picture.size, picture.orientation))
            images = [image for image in images if image.size in sizes] or images[:1]
        if len(images) > 1:
            message = f"{len(images)} annotated images are named {file_name}: which is meant?"
            return [], [Problem(AMBIGUOUS, message)]
        return images, []

    def _sizes_are_turned(self) -> bool:
        """Whether some image's polygons show that sizes in this file are those of stored pixels."""
        if self._turned is None:
            self._turned = any(
                size_is_turned((held for _, held in self._held.of(image)), image.size)
                for image in self.images
                if image.size is not None
            )
        return self._turned


def read_coco(
    path: Path,
    files_on_disk: Iterable[str] = (),
    *,
    folder: Path | None = None,
    conventions: Conventions | None = None,
) -> CocoDataset:
    """Parse a COCO instance file.

    Args:
        path: the JSON file.
        files_on_disk: relative paths of the image files, if known; with them `find` does not give
            one image's masks to two files with the same base name.
        folder: that they are relative to.
        conventions: how to read what COCO leaves open.

    Raises:
        BadAnnotationsError: not JSON, or not COCO instances.
        OSError: the file cannot be read.
    """
    held, content = InFile(path), _Content()
    try:
        for item in read_items(path):
            content.take(item, held)
    except JsonStreamError as error:
        raise _malformed(path, error) from error
    content.check(path)
    images = [_image_of(entry, number, path) for number, entry in enumerate(content.images)]
    twice = [key for key, n in Counter(image.image_id for image in images).items() if n > 1]
    if twice:
        raise BadAnnotationsError(f"{path}: several images have the id {twice[0]!r}")
    held.settle(images)
    named = [{"category_id": 0}] if content.has_category_ids else []
    return CocoDataset(
        images,
        held,
        files_on_disk,
        folder=folder,
        conventions=conventions,
        categories=FileCategories(content.others.get("categories"), named),
        problems=held.problems,
    )


class _Content:
    """The members of a COCO file, without its annotations."""

    def __init__(self) -> None:
        self.images: list[Any] = []
        self.others: dict[str, Any] = {}
        """Other members; of other lists, the first item only."""
        self.has_category_ids = False

    def take(self, item: Item, held: InFile) -> None:
        if item.is_whole:
            self.others[item.key] = item.value
        elif item.key == "annotations":
            held.add(item.value, item.begin, item.end)
            if isinstance(item.value, dict) and "category_id" in item.value:
                self.has_category_ids = True
            self.others[item.key] = []
        elif item.key == "images":
            self.images.append(item.value)
            self.others[item.key] = []
        elif item.key == "categories":
            self.others.setdefault(item.key, []).append(item.value)
        else:
            self.others.setdefault(item.key, [item.value])

    def check(self, path: Path) -> None:
        """Check that both lists are there.

        Raises:
            BadAnnotationsError: one is not.
        """
        for key in ("images", "annotations"):
            _list_of(self.others, key, path)


_SMALL_BYTES = 1 << 26
"""Size up to which a malformed file is read whole, to name the line of its fault."""


def _malformed(path: Path, error: JsonStreamError) -> BadAnnotationsError:
    if path.stat().st_size <= _SMALL_BYTES:
        try:
            parse_json_object(path.read_bytes(), str(path))
        except BadAnnotationsError as found:
            return found
    return BadAnnotationsError(f"{path}: malformed JSON: {error}")


def parse_json_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `data`; `name` is its name in messages.

    Raises:
        BadAnnotationsError: empty, not JSON (with line and column), or not an object.
    """
    if not data.strip():
        raise BadAnnotationsError(f"{name}: the file is empty")
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise BadAnnotationsError(f"{name}: not JSON, which is UTF-8 text ({e})") from e
    except RecursionError as e:
        raise BadAnnotationsError(f"{name}: nested too deeply to be annotations") from e
    except ValueError as e:
        raise BadAnnotationsError(f"{name}: malformed JSON: {e}") from e
    if not isinstance(content, dict):
        raise BadAnnotationsError(f"{name}: expected a JSON object, got a {json_type(content)}")
    return content


def _list_of(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        found = f"{key!r} is a {json_type(value)}" if key in content else f"no {key!r}"
        message = f"{path}: COCO needs a list {key!r}, but there is {found}"
        if (tool := tool_of(content)) is not None:
            message += f": it looks like {tool}; export or convert it as COCO (docs/inputs.md)"
        raise BadAnnotationsError(message)
    return value


def _image_of(entry: object, number: int, path: Path) -> CocoImage:
    if not isinstance(entry, dict):
        raise BadAnnotationsError(f"{path}: image number {number} is not a JSON object")
    image_id, name = id_of(entry.get("id")), entry.get("file_name")
    if image_id is None:
        raise BadAnnotationsError(f"{path}: image number {number} has no usable 'id'")
    if not isinstance(name, str) or not name:
        raise BadAnnotationsError(f"{path}: image {image_id!r} has no 'file_name'")
    sha256 = entry.get("sha256")
    return CocoImage(
        image_id,
        name,
        side_of(entry.get("height")),
        side_of(entry.get("width")),
        sha256.lower() if isinstance(sha256, str) else None,
    )
