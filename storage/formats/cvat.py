"""CVAT's XML ("CVAT for images 1.1"): masks, polygons, rectangles and ellipses.

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. A mask is the run lengths
of its box, row by row, starting with a run of 0. XML with a document type is refused: entities in
it could name files, or grow without bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE
from storage.formats.coco import BadAnnotationsError

CHUNK_BYTES = 1 << 16
SHAPES = ("mask", "polygon", "box", "ellipse")
OTHER_SHAPES = ("polyline", "points", "cuboid", "skeleton", "tag")
"""Parts of an image that are no regions."""
_COLOURS = ("#33ddff", "#fa3253", "#34d1b7", "#ff007c", "#ff6037", "#ddff33", "#24b353", "#b83df5")


def head_of(name: str, labels: Sequence[str]) -> str:
    """The start of the file, up to its images."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines += ["  <meta>", "    <task>", f"      <name>{escape(name)}</name>", "      <labels>"]
    for number, label in enumerate(labels):
        colour = _COLOURS[number % len(_COLOURS)]
        lines.append(
            f"        <label><name>{escape(label)}</name><color>{colour}</color>"
            "<type>any</type><attributes></attributes></label>"
        )
    return "\n".join([*lines, "      </labels>", "    </task>", "  </meta>", ""])


TAIL = "</annotations>\n"
"""The end of the file."""


def image_text(
    number: int, name: str, size: tuple[int, int], shapes: Sequence[tuple[RLE, str, bool]]
) -> str:
    """An image of the file.

    Args:
        number: of the image in the file, from 0.
        name: of its file.
        size: (H, W).
        shapes: each mask with its label, and whether a model made it.
    """
    lines = [f'  <image id="{number}" name={quoteattr(name)} width="{size[1]}" height="{size[0]}">']
    for rle, label, is_automatic in shapes:
        x0, y0, x1, y1 = rle_codec.box_xyxy(rle)
        inside = rle_codec.decode(rle)[y0:y1, x0:x1].ravel().view(np.int8)
        edges = np.flatnonzero(np.diff(inside, prepend=0))
        runs = np.diff(np.concatenate([[0], edges, [len(inside)]]))
        source = "auto" if is_automatic else "manual"
        lines.append(
            f'    <mask label={quoteattr(label)} source="{source}" occluded="0" '
            f'rle="{", ".join(map(str, runs.tolist()))}" left="{x0}" top="{y0}" '
            f'width="{x1 - x0}" height="{y1 - y0}" z_order="0"></mask>'
        )
    return "\n".join([*lines, "  </image>", ""])


@dataclass(slots=True)
class CvatImage:
    """An image of the file: its attributes, and the tag and attributes of each of its shapes."""

    attributes: dict[str, str]
    shapes: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def read_images(path: Path) -> Iterator[CvatImage]:
    """The images of a file, some in memory at a time.

    Raises:
        BadAnnotationsError: not XML, not CVAT's, or with a document type.
        OSError: the file cannot be read.
    """
    parser = ParserCreate()
    reader = _Reader(path)
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                parser.Parse(chunk)
                yield from reader.done
                reader.done.clear()
        parser.Parse(b"", True)
    except (ExpatError, ValueError, LookupError) as error:
        if isinstance(error, BadAnnotationsError):
            raise
        raise BadAnnotationsError(f"{path}: malformed XML: {error}") from error


class _Reader:
    """Collects images from the parser's events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: CvatImage | None = None
        self._is_first = True
        self.done: list[CvatImage] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._is_first and tag != "annotations":
            raise BadAnnotationsError(
                f"{self._path}: expected CVAT's <annotations>, got <{tag:.40}>; export the task as "
                '"CVAT for images 1.1"'
            )
        self._is_first = False
        if tag == "image":
            self._open = CvatImage(attributes)
        elif tag in SHAPES + OTHER_SHAPES and self._open is not None:
            self._open.shapes.append((tag, attributes))
        elif tag == "track":
            raise BadAnnotationsError(
                f'{self._path}: has tracks of a video; export the task as "CVAT for images 1.1"'
            )

    def end(self, tag: str) -> None:
        if tag == "image" and self._open is not None:
            self.done.append(self._open)
            self._open = None

    def refuse(self, *declared: object) -> None:
        raise BadAnnotationsError(f"{self._path}: XML with a document type is refused")


def segmentation_of(
    tag: str, shape: dict[str, str], size: tuple[int, int]
) -> dict[str, Any] | list[list[float]]:
    """A shape as COCO's RLE object or rings.

    Args:
        tag: one of SHAPES.
        shape: its attributes.
        size: (H, W) of its image.

    Raises:
        ValueError: a number is missing or wrong.
    """
    if tag == "mask":
        return _mask(shape, size).as_json()
    if tag == "polygon":
        numbers = [float(one) for one in re.split(r"[;,]", shape.get("points", "")) if one.strip()]
        return [numbers]
    if tag == "box":
        x0, y0, x1, y1 = (_number(shape, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    x, y, rx, ry = (_number(shape, name) for name in ("cx", "cy", "rx", "ry"))
    turns = np.linspace(0, 2 * np.pi, 73)[:-1]
    points = np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], axis=1)
    return [[float(number) for number in points.ravel()]]


def _mask(shape: dict[str, str], size: tuple[int, int]) -> RLE:
    left, top, width, height = (
        int(_number(shape, name)) for name in ("left", "top", "width", "height")
    )
    runs = np.array([int(one) for one in shape.get("rle", "").split(",")], np.int64)
    if width <= 0 or height <= 0 or (runs < 0).any() or int(runs.sum()) != width * height:
        raise ValueError(f"its run lengths do not fill its box of {height} x {width} (H x W)")
    if min(left, top) < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"its box does not lie inside its image of {size} (H, W)")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return rle_codec.from_window(inside, left, top, size)


def _number(shape: dict[str, str], name: str) -> float:
    text = shape.get(name)
    if text is None:
        raise ValueError(f"its {name!r} is missing")
    return float(text)
