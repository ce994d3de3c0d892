"""Annotations of CVAT, Label Studio and labelme."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE
from storage.formats import cvat, label_studio
from storage.formats.coco import BadAnnotationsError, parse_json_object
from storage.formats.coco_annotations import FAULT, CocoImage, Problem, side_of
from storage.formats.folder_annotations import (
    BAD_FILE,
    OWN_FILES,
    Found,
    ImageFiles,
    categories_of,
)
from storage.formats.held_annotations import InMemory
from storage.formats.label_png import decode_png
from storage.formats.segmentation import json_type, rle_from_polygons

PREDICTIONS = "images with predictions only, which nobody has confirmed (they are left out)"
SECOND = "images that several people annotated (the first annotation is used)"


class _Labels:
    """Numbers labels in the order in which they come."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def number(self, name: str | None) -> int | None:
        return None if name is None else self.names.setdefault(name, len(self.names))


# CVAT


def read_cvat(path: Path, files: ImageFiles) -> Found:
    """CVAT's XML."""
    images: list[CocoImage] = []
    held, labels, problems = InMemory(), _Labels(), list[Problem]()
    for number, found in enumerate(cvat.read_images(path)):
        attributes = found.attributes
        sides = [side_of(attributes.get(side)) for side in ("height", "width")]
        name = attributes.get("name")
        if not name or not all(sides):
            text = f"{path}: image number {number} has no name, or no size"
            problems.append(Problem(BAD_FILE, text))
            continue
        size = (sides[0] or 0, sides[1] or 0)
        images.append(CocoImage(number, name, *size))
        for place, (tag, shape) in enumerate(found.shapes):
            held.add(number, place, _cvat_annotation(tag, shape, size, labels))
    return Found(images, held, categories_of(labels.names), problems)


def _cvat_annotation(
    tag: str, shape: dict[str, str], size: tuple[int, int], labels: _Labels
) -> dict[str, Any]:
    if tag not in cvat.SHAPES:
        return {FAULT: f"{tag} of {shape.get('label')!r:.40} is no region"}
    try:
        segmentation = cvat.segmentation_of(tag, shape, size)
    except ValueError as error:
        return {FAULT: f"{tag} of {shape.get('label')!r:.40}: {error}"}
    return {"segmentation": segmentation, "category_id": labels.number(shape.get("label"))}


# Label Studio


def read_label_studio(path: Path, files: ImageFiles) -> Found:
    """Label Studio's JSON. An image's first annotation is used; predictions are not."""
    images: list[CocoImage] = []
    held, labels, problems = InMemory(), _Labels(), list[Problem]()
    for number, task in enumerate(_tasks(path)):
        name = _address(task)
        if name is None:
            text = f"{path}: task number {number} has no address of an image under 'data'"
            problems.append(Problem(BAD_FILE, text))
            continue
        made = [one for one in task.get("annotations") or [] if isinstance(one, dict)]
        done = [one for one in made if not one.get("was_cancelled")]
        if not done:
            if task.get("predictions"):
                problems.append(Problem(PREDICTIONS, f"{name}: has predictions only"))
            continue
        if len(done) > 1:
            problems.append(Problem(SECOND, f"{name}: has {len(done)} annotations"))
        results = [one for one in done[0].get("result") or [] if isinstance(one, dict)]
        image, annotations = _of_results(number, name, results, labels)
        images.append(image)
        for place, annotation in enumerate(annotations):
            held.add(number, place, annotation)
    return Found(images, held, categories_of(labels.names), problems)


def _tasks(path: Path) -> Iterable[dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadAnnotationsError(f"{path}: malformed JSON: {error}") from error
    if not isinstance(content, list):
        raise BadAnnotationsError(
            f"{path}: expected Label Studio's list of tasks, got a {json_type(content)}; "
            "export the project as JSON"
        )
    for number, task in enumerate(content):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise BadAnnotationsError(f"{path}: task number {number} has no 'data'")
        yield task


def _address(task: dict[str, Any]) -> str | None:
    """The address of the task's image: under `image`, or the only text that there is."""
    data = task["data"]
    texts = [value for value in data.values() if isinstance(value, str) and value]
    value = data.get("image", texts[0] if len(texts) == 1 else None)
    return value if isinstance(value, str) and value else None


def _of_results(
    number: int, name: str, results: list[dict[str, Any]], labels: _Labels
) -> tuple[CocoImage, list[dict[str, Any]]]:
    """A task's image and annotations."""
    found: list[dict[str, Any]] = []
    size: tuple[int | None, int | None] = (None, None)
    for result in results:
        if result.get("type") in ("choices", "textarea", "rating", "relation"):
            continue
        try:
            shape, size, label = label_studio.shape_of(result)
        except ValueError as error:
            found.append({FAULT: f"result {result.get('id')!r:.40}: {error}"})
            continue
        segmentation = shape.as_json() if isinstance(shape, RLE) else shape
        annotation = {"segmentation": segmentation, "category_id": labels.number(label)}
        found.append(annotation | {"id": result.get("id")})
    return CocoImage(number, name, *size), found


# labelme


def read_labelme(path: Path, files: ImageFiles) -> Found:
    """labelme's JSON: a file for each image, in a folder."""
    images: list[CocoImage] = []
    held, labels, problems = InMemory(), _Labels(), list[Problem]()
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        if file.name in OWN_FILES:
            continue
        try:
            content = parse_json_object(file.read_bytes(), str(file))
            image, shapes = _labelme_image(content, file, path)
        except BadAnnotationsError as error:
            problems.append(Problem(BAD_FILE, str(error)))
            continue
        images.append(image)
        for place, annotation in enumerate(_labelme_objects(shapes, image, labels)):
            held.add(image.image_id, place, annotation)
    return Found(images, held, categories_of(labels.names), problems)


def _labelme_image(content: dict[str, Any], file: Path, root: Path) -> tuple[CocoImage, list[Any]]:
    name, shapes = content.get("imagePath"), content.get("shapes")
    sides = [side_of(content.get(f"image{side}")) for side in ("Height", "Width")]
    if not isinstance(name, str) or not name or not isinstance(shapes, list) or not all(sides):
        raise BadAnnotationsError(
            f"{file}: labelme needs 'imagePath', 'imageHeight', 'imageWidth' and a list 'shapes'"
        )
    base = name.replace("\\", "/").rpartition("/")[2]
    beside = file.parent if root.is_dir() else root.parent
    relative = (beside / base).relative_to(root if root.is_dir() else root.parent).as_posix()
    return CocoImage(str(file), relative, sides[0], sides[1]), shapes


def _labelme_objects(shapes: list[Any], image: CocoImage, labels: _Labels) -> list[dict[str, Any]]:
    """The image's annotations: shapes of one label and group are pieces of one object."""
    size = (image.height or 0, image.width or 0)
    found: list[dict[str, Any]] = []
    groups: dict[tuple[str | None, Any], list[RLE]] = {}
    for number, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, dict) else None
        label = label if isinstance(label, str) else None
        try:
            rle = _labelme_mask(shape, size)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            found.append({FAULT: f"shape number {number} of {label!r:.40}: {error}"})
            continue
        group = shape.get("group_id")
        key = (label, number if group is None else ("group", str(group)))
        groups.setdefault(key, []).append(rle)
    for (label, _), pieces in groups.items():
        whole = pieces[0]
        if len(pieces) > 1:
            whole = rle_codec.encode(np.any([rle_codec.decode(one) for one in pieces], axis=0))
        annotation = {"segmentation": whole.as_json(), "category_id": labels.number(label)}
        found.append(annotation)
    return found


def _labelme_mask(shape: Any, size: tuple[int, int]) -> RLE:
    if not isinstance(shape, dict):
        raise ValueError(f"not a JSON object, but a {json_type(shape)}")
    kind = shape.get("shape_type") or "polygon"
    points = np.array(shape.get("points"), np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("its points are not a list of [x, y]")
    if kind == "mask":
        return _labelme_pixels(shape, points, size)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points[:2]
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind == "circle":
        radius = math.dist(points[0], points[1])
        turns = np.linspace(0, 2 * np.pi, 73)[:-1]
        points = points[0] + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    elif kind != "polygon":
        raise ValueError(f"a {kind!r:.40} is no region")
    return rle_from_polygons([points.ravel().tolist()], size)


def _labelme_pixels(shape: dict[str, Any], points: np.ndarray, size: tuple[int, int]) -> RLE:
    """A mask drawn by labelme's model: a PNG of its box."""
    try:
        data = base64.b64decode(str(shape.get("mask")), validate=True)
    except binascii.Error as error:
        raise ValueError("its mask is not in base64") from error
    inside = decode_png(data) > 0
    x, y = (round(float(value)) for value in points.min(axis=0))
    return rle_codec.from_window(inside, x, y, size)
