"""Annotations with a file for each image: SA-1B's JSON, YOLO's labels, label images."""

from __future__ import annotations

import csv
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import cv2
import numpy as np
import yaml

from engine.core import rle as rle_codec
from engine.core.categories import UNLABELLED
from storage.formats.coco import BadAnnotationsError, parse_json_object
from storage.formats.coco_annotations import FAULT, CocoImage, Picture, Problem, side_of
from storage.formats.coco_categories import FileCategories
from storage.formats.held_annotations import Held, Numbered
from storage.formats.label_png import decode_png, masks_in

OWN_FILES = ("release.json", "categories.json")
"""Files that exports write beside annotations."""
BAD_FILE = "annotation files that cannot be read"
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The image files that are ingested: their folder, and names relative to it."""

    folder: Path | None
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader found: images, their annotations, categories, and problems of files."""

    images: list[CocoImage]
    held: Held
    categories: FileCategories
    problems: list[Problem] = field(default_factory=list)


class OnDemand:
    """Annotations that are read when their image is asked for."""

    def __init__(self, read: Callable[[CocoImage, Picture], list[dict[str, Any]]]) -> None:
        self._read = read

    def of(self, image: CocoImage, picture: Picture | None = None) -> list[Numbered]:
        if picture is None:
            return []
        try:
            return list(enumerate(self._read(image, picture)))
        except (BadAnnotationsError, OSError, ValueError) as error:
            return [(0, {FAULT: f"its annotations cannot be read: {error}"})]


def categories_of(names: Iterable[str]) -> FileCategories:
    """Categories of these names, whose ids are their places."""
    return FileCategories([{"id": number, "name": name} for number, name in enumerate(names)])


# SA-1B

_NO_CATEGORY = 0
"""Id for masks without one; those of a list begin with 1."""


def read_sa1b_files(path: Path, files: ImageFiles) -> Found:
    """SA-1B's JSON: a file, a folder of them, or tars of them. `categories.json` beside them, if
    any, has the categories."""
    sources = _sa1b_sources(path)
    images, problems = [], []
    contents: dict[int | str, Callable[[], bytes]] = {}
    for name, read in sources:
        try:
            image = _sa1b_image(parse_json_object(read(), name), name)
        except BadAnnotationsError as error:
            problems.append(Problem(BAD_FILE, str(error)))
            continue
        images.append(image)
        contents[image.image_id] = read

    def annotations(image: CocoImage, picture: Picture) -> list[dict[str, Any]]:
        found = parse_json_object(contents[image.image_id](), str(image.image_id))["annotations"]
        return [_sa1b_annotation(one) for one in found]

    beside = (path if path.is_dir() else path.parent) / "categories.json"
    entries = None
    if beside.is_file():
        entries = parse_json_object(beside.read_bytes(), str(beside)).get("categories")
        if isinstance(entries, list):
            entries = [*entries, {"id": _NO_CATEGORY, "name": UNLABELLED}]
    return Found(images, OnDemand(annotations), FileCategories(entries), problems)


def _sa1b_annotation(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {FAULT: "not a JSON object"}
    given = content.get("category_id")
    return content | {"category_id": _NO_CATEGORY if given is None else given}


def _sa1b_sources(path: Path) -> list[tuple[str, Callable[[], bytes]]]:
    """Name and content of each JSON file."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found: list[tuple[str, Callable[[], bytes]]] = []
    for file in files:
        if file.suffix == ".json" and file.name not in OWN_FILES:
            found.append((str(file), file.read_bytes))
        elif file.suffix == ".tar":
            found += _members(file)
    return found


def _members(path: Path) -> list[tuple[str, Callable[[], bytes]]]:
    """The JSON files of a tar, which is not unpacked."""
    found: list[tuple[str, Callable[[], bytes]]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and member.name.endswith(".json"):
                    if member.size > MAX_FILE_BYTES or PurePosixPath(member.name).name in OWN_FILES:
                        continue
                    place = (member.offset_data, member.size)
                    found.append((f"{path}:{member.name}", _Piece(path, *place).read))
    except tarfile.TarError as error:
        raise BadAnnotationsError(f"{path}: not a readable tar: {error}") from error
    return found


@dataclass(frozen=True, slots=True)
class _Piece:
    path: Path
    begin: int
    size: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.begin)
            return file.read(self.size)


def _sa1b_image(content: dict[str, Any], name: str) -> CocoImage:
    image = content.get("image")
    if not isinstance(image, dict) or not isinstance(content.get("annotations"), list):
        raise BadAnnotationsError(f"{name}: SA-1B needs 'image' and a list 'annotations'")
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise BadAnnotationsError(f"{name}: its image has no 'file_name'")
    return CocoImage(name, file_name, side_of(image.get("height")), side_of(image.get("width")))


# YOLO


def read_yolo(path: Path, files: ImageFiles) -> Found:
    """YOLO's segmentation labels: `data.yaml`, or its folder, or a folder of labels.

    The labels of `images/a/b.jpg` are `labels/a/b.txt`, or lie beside the image.
    """
    root = path if path.is_dir() else path.parent
    config = path if path.is_file() else root / "data.yaml"
    names = _yolo_names(config) if config.is_file() else None
    labels = {_label_key(file.relative_to(root)): file for file in sorted(root.rglob("*.txt"))}
    labels |= _listed_labels(root / "images.csv", labels)
    images, used = [], {}
    base = PurePosixPath("." if files.folder is None else files.folder.resolve().as_posix())
    for name in files.names:
        file = _label_of(base / name, labels)
        if file is not None:
            images.append(CocoImage(name, name, None, None))
            used[name] = file
    unused = {file: key for key, file in labels.items() if file not in {*used.values()}}
    images += [CocoImage(str(file), key, None, None) for file, key in unused.items()]

    def annotations(image: CocoImage, picture: Picture) -> list[dict[str, Any]]:
        if image.image_id not in used:
            raise ValueError("its name is not that of the image")
        text = used[str(image.image_id)].read_text(encoding="utf-8")
        lines = [line.split() for line in text.splitlines() if line.strip()]
        return [_yolo_annotation(line, picture.size) for line in lines]

    if names is None:
        return Found(images, OnDemand(annotations), FileCategories())
    entries = [{"id": number, "name": name} for number, name in names.items()]
    return Found(images, OnDemand(annotations), FileCategories(entries))


def _listed_labels(path: Path, labels: dict[str, Path]) -> dict[str, Path]:
    """The label files by the names that images have in the list of an export, if there is one."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["file_name"], row["file"]) for row in csv.DictReader(file)]
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise BadAnnotationsError(f"{path}: not a list of images: {error!r}") from error
    keys = [(_label_key(PurePosixPath(name)), _label_key(PurePosixPath(at))) for name, at in rows]
    return {name: labels[at] for name, at in keys if at in labels}


def _yolo_names(path: Path) -> dict[int, str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadAnnotationsError(f"{path}: malformed YAML: {error}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict) and all(isinstance(number, int) for number in names):
        return {number: str(name) for number, name in names.items()}
    raise BadAnnotationsError(f"{path}: expected 'names': a list, or names by number")


def _label_key(path: PurePath) -> str:
    """The path of a label file without suffix and without its folder `labels`."""
    parts = [part for part in path.with_suffix("").parts if part not in ("labels", "images")]
    return "/".join(parts)


def _label_of(image: PurePosixPath, labels: dict[str, Path]) -> Path | None:
    """The label file of an image: that of the longest end of its path."""
    parts = [part for part in image.with_suffix("").parts if part not in ("labels", "images")]
    ends = ("/".join(parts[begin:]) for begin in range(len(parts)))
    return next((labels[end] for end in ends if end in labels), None)


def _yolo_annotation(words: list[str], size: tuple[int, int]) -> dict[str, Any]:
    """A line as an annotation. Polygons are filled as Ultralytics fills them."""
    try:
        number, shares = int(words[0]), np.array(words[1:], np.float64)
    except ValueError:
        return {FAULT: f"a line holds {' '.join(words)!r:.40}, expected numbers"}
    if len(shares) == 4:
        return {FAULT: "a line is a box, not a polygon"}
    if len(shares) < 6 or len(shares) % 2 or not np.isfinite(shares).all():
        return {FAULT: f"a line has {len(shares)} numbers, expected x y of three or more corners"}
    if shares.min() < -0.5 or shares.max() > 1.5:
        return {FAULT: "a line's corners are outside the image; expected shares from 0 to 1"}
    corners = (shares.reshape(-1, 2) * size[::-1]).astype(np.int32)
    pixels = np.zeros(size, np.uint8)
    cv2.fillPoly(pixels, [corners], 1)
    coded = rle_codec.encode(pixels.astype(bool))
    return {"category_id": number, "segmentation": coded.as_json()}


# Label images


def read_label_pngs(path: Path, files: ImageFiles) -> Found:
    """A folder of label images. `objects.csv` of an export, if there is one in a folder, names
    images and categories; else a label image has the name of its image."""
    if not path.is_dir():
        raise BadAnnotationsError(f"{path}: expected a folder of label images")
    pictures = sorted(file for file in path.rglob("*.png") if not file.name.startswith("."))
    lists = {file.parent: _object_list(file) for file in sorted(path.rglob("objects.csv"))}
    stems: dict[str, list[str]] = {}
    for name in files.names:
        stems.setdefault(PurePosixPath(name).stem, []).append(name)
    images, where = [], {}
    for file in pictures:
        listed = lists.get(file.parent, {}).get(file.name)
        relative = file.relative_to(path).with_suffix("").as_posix()
        fitting = [n for n in stems.get(file.stem, []) if n.startswith(f"{relative}.")]
        named = (fitting or stems.get(file.stem, []))[:1]
        name = listed.file_name if listed else named[0] if named else f"{relative}.png"
        image = CocoImage(str(file), name, None, None)
        images.append(image)
        where[image.image_id] = (file, listed)
    names = sorted({n for held in lists.values() for one in held.values() for n in one.names()})
    places = {name: number for number, name in enumerate(names)}

    def annotations(image: CocoImage, picture: Picture) -> list[dict[str, Any]]:
        file, listed = where[image.image_id]
        found = []
        for number, rle in masks_in(decode_png(file.read_bytes())):
            category = listed.categories.get(number) if listed else None
            place = None if category is None else places[category]
            found.append({"id": number, "category_id": place, "segmentation": rle.as_json()})
        return found

    return Found(images, OnDemand(annotations), categories_of(names))


@dataclass(slots=True)
class _Listed:
    """What a list says of a label image: its image's name, and categories by number."""

    file_name: str
    categories: dict[int, str] = field(default_factory=dict)

    def names(self) -> set[str]:
        return set(self.categories.values())


def _object_list(path: Path) -> dict[str, _Listed]:
    found: dict[str, _Listed] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                entry = found.setdefault(row["file"], _Listed(row["file_name"]))
                if re.fullmatch(r"\d{1,9}", row["number"]):
                    entry.categories[int(row["number"])] = row["category"]
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise BadAnnotationsError(f"{path}: not a list of objects: {error!r}") from error
    return found
