"""One image's annotations in a COCO file as masks, by the conventions of the tool that wrote it.

H = height, W = width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from engine.core.rle import RLE, area, box_xyxy
from storage.formats.frames import (
    Frame,
    FrameDoubtError,
    overlap,
    polygon_box,
    polygon_frame,
    stated_box,
    stored_size,
    upright,
)
from storage.formats.segmentation import (
    json_type,
    rle_from_json,
    rle_from_polygons,
    rle_size,
    whole_number,
)

CROWDS = "crowds, which are no objects (--crowds objects takes them)"
UNUSABLE = "annotations that are no usable mask"
DOUBTFUL_FRAME = "images whose annotations may be turned (say --frame stored or --frame upright)"
OTHER_BOX = "boxes elsewhere than their masks (the masks were taken)"
FAR_OUTSIDE = "masks that leave their image (cut at its edge)"

FAULT = "dataengine: fault"
"""Key of an annotation that a reader of another format could not use: why."""

SAME_BOX = 0.5
"""IoU from which a box matches its mask."""
FAR = 0.05
"""Share of an image's longer side that a polygon may extend beyond it without a report."""


class Crowds(StrEnum):
    """Meaning of `iscrowd: 1`. AUTO: a crowd, but an object if the annotation has CVAT's
    attributes, as CVAT sets it on all RLE."""

    AUTO = "auto"
    OBJECTS = "objects"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Conventions:
    """How to read what COCO leaves to the writing tool."""

    crowds: Crowds = Crowds.AUTO
    frame: Frame = Frame.AUTO


class Problem(str):
    """A fault in words; `kind` is the group it counts in."""

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, kind: str, text: str) -> Self:
        made = super().__new__(cls, text)
        made.kind = kind
        return made


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An entry of the file's "images"; None for missing values."""

    image_id: int | str
    file_name: str
    height: int | None
    width: int | None
    sha256: str | None = None
    """Of the image file, in hex; only in exports of this project."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) in pixels."""
        return None if self.height is None or self.width is None else (self.height, self.width)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file: its upright (H, W) in pixels, and its EXIF orientation, 1 to 8."""

    size: tuple[int, int]
    orientation: int = 1


def masks_of(
    image: CocoImage,
    annotations: Sequence[tuple[int, dict[str, Any]]],
    picture: Picture,
    conventions: Conventions,
    sizes_are_turned: Callable[[], bool],
) -> tuple[list[tuple[RLE, int, dict[str, Any]]], list[Problem]]:
    """The image's objects as upright masks, each with its annotation and that one's index in the
    file, and problems of skipped or odd annotations.

    Args:
        image: the file's entry.
        annotations: of the image, with their indices in the file.
        picture: the image file.
        conventions: how to read the annotations.
        sizes_are_turned: see `polygon_frame`.
    """
    masks: list[tuple[RLE, int, dict[str, Any]]] = []
    problems: list[Problem] = []
    try:
        frame = _frame_of_polygons(image, annotations, picture, conventions, sizes_are_turned)
    except FrameDoubtError as e:
        text = f"{len(annotations)} annotations skipped: {e}; choose with --frame"
        return [], [Problem(DOUBTFUL_FRAME, text)]
    for number, annotation in annotations:
        label = label_of(number, annotation)
        if _is_crowd(annotation, conventions.crowds):
            problems.append(Problem(CROWDS, f"{label}: crowd: a region of several objects"))
            continue
        try:
            rle, turned = _mask_of(annotation, image, picture, frame, conventions.frame)
        except ValueError as e:
            problems.append(Problem(UNUSABLE, f"{label}: {e}"))
            continue
        problems += [Problem(kind, f"{label}: {text}") for kind, text in _oddities(annotation, rle)]
        rle = upright(rle, picture.orientation) if turned else rle
        masks.append((rle, number, annotation))
    return masks, problems


def label_of(number: int, annotation: dict[str, Any]) -> str:
    """The name of an annotation in messages."""
    if "id" in annotation:
        return f"annotation {annotation['id']!r:.40}"
    return f"annotation number {number} (no id)"


def side_of(value: object) -> int | None:
    """A height or width in pixels, or None."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return whole_number(value)


def id_of(value: object) -> int | str | None:
    """An image id, or None; whole floats are integers changed by a spreadsheet."""
    number = whole_number(value)
    return value if number is None and isinstance(value, str) else number


def plain_id(value: int | str) -> str:
    """One form for 7, "7" and "7.0"."""
    text = str(value).strip()
    whole = re.fullmatch(r"0*(\d+)(\.0*)?", text)
    return whole[1] if whole else text


def _is_crowd(annotation: dict[str, Any], chosen: Crowds) -> bool:
    flag = annotation.get("iscrowd")
    if chosen == Crowds.OBJECTS or not flag or flag in ("0", "false", "False"):
        return False
    attributes = annotation.get("attributes")
    of_cvat = isinstance(attributes, dict) and "occluded" in attributes
    return chosen == Crowds.SKIP or not of_cvat


def _frame_of_polygons(
    image: CocoImage,
    annotations: Sequence[tuple[int, dict[str, Any]]],
    picture: Picture,
    conventions: Conventions,
    sizes_are_turned: Callable[[], bool],
) -> Frame:
    if picture.orientation == 1:
        return Frame.UPRIGHT
    stored = stored_size(picture.size, picture.orientation)
    if image.size not in (None, picture.size, stored):
        return Frame.UPRIGHT  # a size mismatch is reported in either frame
    if conventions.frame != Frame.AUTO:
        return conventions.frame
    held = [annotation for _, annotation in annotations]
    return polygon_frame(held, image.size, picture.size, picture.orientation, sizes_are_turned)


def _mask_of(
    annotation: dict[str, Any], image: CocoImage, picture: Picture, frame: Frame, chosen: Frame
) -> tuple[RLE, bool]:
    """The mask, and whether it is in stored (not upright) pixels.

    Raises:
        ValueError: why the annotation has no usable mask.
    """
    if FAULT in annotation:
        raise ValueError(annotation[FAULT])
    segmentation, size = annotation.get("segmentation"), picture.size
    stored = stored_size(size, picture.orientation)
    turned = frame == Frame.STORED
    if not segmentation:
        raise ValueError("no segmentation")
    if isinstance(segmentation, dict):
        found = rle_size(segmentation.get("size"))
        if stored != size:  # an RLE's size shows its frame
            turned = found == stored and chosen != Frame.UPRIGHT
        _check_size(found, stored if turned else size, "its mask")
        rle = rle_from_json(segmentation)
    elif isinstance(segmentation, list):
        if image.size not in (None, stored):
            _check_size(image.size, size, "the annotated image")
        rle = rle_from_polygons(segmentation, stored if turned else size)
    else:
        raise ValueError(f"its segmentation is a {json_type(segmentation)}")
    if area(rle) == 0:
        raise ValueError("empty mask: no pixel of the image is in it")
    return rle, turned


def _oddities(annotation: dict[str, Any], rle: RLE) -> Iterator[tuple[str, str]]:
    """Kinds and descriptions of what looks wrong in a usable annotation."""
    box = stated_box(annotation)
    if box is not None and overlap(box, box_xyxy(rle)) < SAME_BOX:
        yield OTHER_BOX, "its box does not match its mask; the mask was used"
    polygon = polygon_box(annotation)
    if polygon is not None:
        height, width = rle.size
        beyond = max(-polygon[0], -polygon[1], polygon[2] - width, polygon[3] - height)
        if beyond > FAR * max(rle.size):
            yield FAR_OUTSIDE, f"it extends {beyond:.0f} pixels beyond the image; it was cut there"


def _check_size(found: tuple[int, int], expected: tuple[int, int], what: str) -> None:
    if found != expected:
        turned = ", as if rotated by EXIF" if found == expected[::-1] else ""
        raise ValueError(
            f"{what} is {found[0]} x {found[1]} pixels (H x W),"
            f" the image file {expected[0]} x {expected[1]}{turned}"
        )
