"""COCO instance JSON: read what others annotated, and export masks as a stream.

Format: https://cocodataset.org/#format-data. Reading is defensive: a bad annotation is dropped with
a reason and never stops the others; only a file that cannot be understood at all raises. The file
is parsed in memory (about ten times its size), the masks only when they are asked for.

H = height, W = width.
"""

from __future__ import annotations

import json
import os
import unicodedata
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, TextIO

from engine.core.records import Mask
from engine.core.rle import RLE, area
from storage.formats.segmentation import json_type, rle_from_json, rle_from_polygons, rle_size

_COPY_CHARACTERS = 1 << 16


class BadAnnotationsError(ValueError):
    """An annotation file cannot be understood as a whole. The message names the file and what is
    wrong: show it to whoever made the file."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An entry of the file's "images"; `height` and `width` are None where it does not say."""

    image_id: int | str
    file_name: str
    height: int | None
    width: int | None


class CocoDataset:
    """The images and annotations of one COCO file, masks made on demand.

    Attributes:
        images: every image of the file.
        problems: what is wrong with the file itself, one string per annotation that belongs to no
            image; problems of single images come from `masks_for`.
    """

    def __init__(
        self,
        images: Iterable[CocoImage],
        annotations: Iterable[object],
        files_on_disk: Iterable[str] = (),
    ) -> None:
        self.images = tuple(images)
        self.problems: list[str] = []
        self._annotations = self._by_image(annotations)
        self._by_path: dict[str, list[CocoImage]] = defaultdict(list)
        for image in self.images:
            self._by_path[_path(image.file_name)].append(image)
        disk = {_path(name) for name in files_on_disk}
        # A base name may only be shared out among those that no full path has matched.
        self._free_paths: dict[str, list[str]] = defaultdict(list)
        for path in self._by_path:
            if path not in disk:
                self._free_paths[_base(path)].append(path)
        self._free_files = Counter(_base(path) for path in disk if path not in self._by_path)

    def masks_for(self, file_name: str, size: tuple[int, int]) -> tuple[list[RLE], list[str]]:
        """The objects of one image file, and one string per annotation that was dropped.

        The full relative path decides which image of the file is meant; where none is the same, the
        base name does, unless several images (or several files on disk) share it.

        Args:
            file_name: path of the image file, relative to the images' folder.
            size: its (H, W) in pixels; masks of any other size are dropped.
        """
        images, problems = self._find(file_name)
        masks: list[RLE] = []
        for image in images:
            for number, annotation in self._annotations.get(image.image_id, ()):
                try:
                    masks.append(_mask_of(annotation, image, size))
                except ValueError as e:
                    problems.append(f"{_label(number, annotation)}: {e}")
        return masks, problems

    def missing(self, file_names_on_disk: Iterable[str]) -> list[str]:
        """File names of the images that no file on disk belongs to, in the file's order."""
        paths = {_path(name) for name in file_names_on_disk}
        free_bases = {_base(path) for path in paths if path not in self._by_path}
        names = [(image.file_name, _path(image.file_name)) for image in self.images]
        return [name for name, path in names if path not in paths and _base(path) not in free_bases]

    def _find(self, file_name: str) -> tuple[list[CocoImage], list[str]]:
        path = _path(file_name)
        if path in self._by_path:
            return list(self._by_path[path]), []
        base = _base(path)
        candidates = self._free_paths.get(base, [])
        if len(candidates) > 1:
            return [], [f"{len(candidates)} annotated images are named {base}: which is meant?"]
        if candidates and self._free_files[base] > 1:
            return [], [
                f"{self._free_files[base]} files are named {base}, but one image is annotated"
            ]
        return [image for found in candidates for image in self._by_path[found]], []

    def _by_image(
        self, annotations: Iterable[object]
    ) -> dict[int | str, list[tuple[int, dict[str, Any]]]]:
        known = {image.image_id for image in self.images}
        found: dict[int | str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for number, annotation in enumerate(annotations):
            if not isinstance(annotation, dict):
                self.problems.append(f"annotation number {number}: not a JSON object")
                continue
            image_id = _id(annotation.get("image_id"))
            if image_id is None or image_id not in known:
                label, found_id = _label(number, annotation), annotation.get("image_id")
                self.problems.append(f"{label}: its image id {found_id!r:.40} is not in 'images'")
                continue
            found[image_id].append((number, annotation))
        return found


def read_coco(path: Path, files_on_disk: Iterable[str] = ()) -> CocoDataset:
    """Parse a COCO instance file.

    Args:
        path: the JSON file.
        files_on_disk: relative paths of the image files, where they are known. They keep
            `masks_for` from giving one image's masks to two files with the same base name.

    Raises:
        BadAnnotationsError: not JSON, or not COCO instances.
        OSError: the file cannot be read.
    """
    content = parse_json_object(path.read_bytes(), str(path))
    entries = _list_of(content, "images", path)
    annotations = _list_of(content, "annotations", path)
    images = [_image_of(entry, number, path) for number, entry in enumerate(entries)]
    twice = [key for key, n in Counter(image.image_id for image in images).items() if n > 1]
    if twice:
        raise BadAnnotationsError(f"{path}: several images have the id {twice[0]!r}")
    return CocoDataset(images, annotations, files_on_disk)


def parse_json_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `data`; `name` is what messages call it.

    Raises:
        BadAnnotationsError: empty, no JSON (with line and column), or no object.
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


class CocoWriter:
    """Writes a COCO file image by image; what is held in memory is one image's masks.

    Use as a context manager. The file appears under its name, whole, when the block ends; if the
    block raises, nothing is left behind and an older file of that name stays as it was.
    """

    def __init__(self, path: Path, *, description: str = "") -> None:
        self._path = path
        self._description = description
        fresh = f".{path.name}.{uuid.uuid4().hex}"
        self._main_path = path.with_name(f"{fresh}.tmp")
        self._images_path = path.with_name(f"{fresh}.images.tmp")
        self._main: TextIO | None = None
        self._images: TextIO | None = None
        self._image_ids: set[int] = set()
        self._written = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._main = self._main_path.open("w", encoding="utf-8")
        self._images = self._images_path.open("w+", encoding="utf-8")
        info = json.dumps({"description": self._description})
        categories = json.dumps([{"id": 1, "name": "object", "supercategory": "object"}])
        self._main.write(
            f'{{"info":{info},\n"licenses":[],\n"categories":{categories},\n"annotations":['
        )
        return self

    def add_image(
        self,
        image_id: int,
        file_name: str,
        height: int,
        width: int,
        masks: Iterable[Mask],
        *,
        status: str | None = None,
    ) -> None:
        """Write one image and all its masks, or nothing of it if one does not fit; `status`, where
        it is given, is a field of the image.

        Annotation ids count from 1, because COCOeval takes 0 for "no match".

        Raises:
            ValueError: an image id was given before, a mask's size is not (height, width), or a
                score is not a number.
            RuntimeError: called outside the `with` block.
        """
        if self._main is None or self._images is None:
            raise RuntimeError("CocoWriter.add_image works inside its `with` block only")
        if image_id in self._image_ids:
            raise ValueError(f"image id {image_id} was written before")
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        if status is not None:
            image["status"] = status
        lines = [
            _line(_annotation_of(mask, image_id, self._written + number, (height, width)))
            for number, mask in enumerate(masks, start=1)
        ]
        image_line = _line(image)
        for number, line in enumerate(lines, start=self._written):
            self._main.write(f",\n{line}" if number else f"\n{line}")
        self._images.write(f",\n{image_line}" if self._image_ids else f"\n{image_line}")
        self._image_ids.add(image_id)
        self._written += len(lines)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in (self._main, self._images):
                if file is not None:
                    file.close()
            self._main = self._images = None
            self._main_path.unlink(missing_ok=True)
            self._images_path.unlink(missing_ok=True)

    def _finish(self) -> None:
        assert self._main is not None
        assert self._images is not None
        self._main.write('],\n"images":[')
        self._images.seek(0)
        while chunk := self._images.read(_COPY_CHARACTERS):
            self._main.write(chunk)
        self._main.write("]}\n")
        self._main.flush()
        os.fsync(self._main.fileno())
        self._main.close()
        self._main_path.replace(self._path)


def box_xywh(box_xyxy: tuple[int, int, int, int]) -> list[int]:
    """A half-open pixel box as COCO writes it: [x, y, width, height]."""
    x0, y0, x1, y1 = (int(value) for value in box_xyxy)
    return [x0, y0, x1 - x0, y1 - y0]


def _annotation_of(
    mask: Mask, image_id: int, annotation_id: int, size: tuple[int, int]
) -> dict[str, Any]:
    if mask.rle.size != size:
        raise ValueError(f"mask {mask.mask_id} has size {mask.rle.size}, its image {size} (H, W)")
    annotation: dict[str, Any] = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "segmentation": mask.rle.as_json(),
        "bbox": box_xywh(mask.box_xyxy),
        "area": int(mask.area),
        "iscrowd": 0,
    }
    scores = {"predicted_iou": mask.predicted_iou, "stability_score": mask.stability_score}
    annotation |= {name: float(score) for name, score in scores.items() if score is not None}
    return annotation | {
        "stage": mask.stage.value,
        "source": mask.source.value,
        "mask_id": mask.mask_id,
    }


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


def _list_of(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        found = f"{key!r} is a {json_type(value)}" if key in content else f"no {key!r}"
        raise BadAnnotationsError(f"{path}: COCO needs a list {key!r}, but there is {found}")
    return value


def _image_of(entry: object, number: int, path: Path) -> CocoImage:
    if not isinstance(entry, dict):
        raise BadAnnotationsError(f"{path}: image number {number} is not a JSON object")
    image_id, name = _id(entry.get("id")), entry.get("file_name")
    if image_id is None:
        raise BadAnnotationsError(f"{path}: image number {number} has no usable 'id'")
    if not isinstance(name, str) or not name:
        raise BadAnnotationsError(f"{path}: image {image_id!r} has no 'file_name'")
    height, width = entry.get("height"), entry.get("width")
    return CocoImage(
        image_id,
        name,
        height if isinstance(height, int) else None,
        width if isinstance(width, int) else None,
    )


def _mask_of(annotation: dict[str, Any], image: CocoImage, size: tuple[int, int]) -> RLE:
    """Raises ValueError with the reason why this annotation is no object of an image of `size`."""
    if annotation.get("iscrowd"):
        raise ValueError("crowd: a region of several objects, not one of them")
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise ValueError("no segmentation")
    if isinstance(segmentation, dict):
        _check_size(rle_size(segmentation.get("size")), size, "its mask")
        rle = rle_from_json(segmentation)
    elif isinstance(segmentation, list):
        if image.height is not None and image.width is not None:
            _check_size((image.height, image.width), size, "the annotated image")
        rle = rle_from_polygons(segmentation, size)
    else:
        raise ValueError(f"its segmentation is a {json_type(segmentation)}")
    if area(rle) == 0:
        raise ValueError("empty mask: no pixel of the image is in it")
    return rle


def _check_size(found: tuple[int, int], expected: tuple[int, int], what: str) -> None:
    if found != expected:
        turned = ", as if turned by EXIF" if found == expected[::-1] else ""
        raise ValueError(
            f"{what} is {found[0]} x {found[1]} pixels (H x W),"
            f" the image file {expected[0]} x {expected[1]}{turned}"
        )


def _id(value: object) -> int | str | None:
    """An image id, or None; whole floats are integers that went through a table program."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) else None


def _path(name: str) -> str:
    """A relative path in one form: forward slashes, no "./", composed Unicode (macOS is not)."""
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))).as_posix()


def _base(path: str) -> str:
    return PurePosixPath(path).name


def _label(number: int, annotation: dict[str, Any]) -> str:
    if "id" in annotation:
        return f"annotation {annotation['id']!r:.40}"
    return f"annotation number {number} (no id)"
