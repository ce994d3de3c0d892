"""Label Studio's JSON: tasks with masks as brush strokes, polygons, rectangles and ellipses.

Format: https://labelstud.io/guide/export and `brush.py` of label-studio-converter. A brush is the
image's RGBA bytes, row by row, in the run-length code of `rle-pack`: a head (32 bits: number of
bytes; 5: bits of a value less 1; four times 4: bits of a length less 1), then runs (a bit: whether
one value is repeated; 2 bits: which length; the length less 1; the value or values).

H = height, W = width.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE

LENGTH_BITS = (3, 4, 8, 16)
"""Bits of a run's length, as Label Studio chooses them."""
_VALUE_BITS = 8
_OPAQUE = 128
"""Alpha from which a pixel belongs to a brush."""
MAX_BYTES = 4 * 200_000_000
"""Of a brush, as the largest image that is ingested has."""


def encode_brush(rle: RLE) -> list[int]:
    """The mask as Label Studio's list of bytes."""
    runs = row_runs(rle)
    values = (np.arange(len(runs)) % 2 * 255)[runs > 0]
    lengths = 4 * runs[runs > 0]
    most = 1 << LENGTH_BITS[-1]
    pieces = -(-lengths // most)
    values = np.repeat(values, pieces)
    whole = np.full(len(values), most, np.int64)
    whole[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * most
    height, width = rle.size
    head = f"{4 * height * width:032b}{_VALUE_BITS - 1:05b}"
    head += "".join(f"{bits - 1:04b}" for bits in LENGTH_BITS)
    kinds = np.searchsorted([1 << bits for bits in LENGTH_BITS], whole)
    parts = [head]
    for kind, length, value in zip(kinds.tolist(), whole.tolist(), values.tolist(), strict=True):
        parts.append(f"1{kind:02b}{length - 1:0{LENGTH_BITS[kind]}b}{value:08b}")
    bits = "".join(parts)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def decode_brush(data: object, size: tuple[int, int]) -> RLE:
    """The mask of Label Studio's list of bytes, for an image of (H, W).

    Raises:
        ValueError: not such a list, or of an image of another size.
    """
    if not isinstance(data, list) or not data:
        raise ValueError("its brush is not a list of bytes")
    try:
        packed = bytes(data)
    except (ValueError, TypeError) as error:
        raise ValueError("its brush holds values that are no bytes") from error
    bits = _Bits(packed)
    length = bits.read(32)
    height, width = size
    if length != 4 * height * width or length > MAX_BYTES:
        raise ValueError(
            f"its brush has {length} bytes, an image of {size} (H, W) 4 for each pixel"
        )
    value_bits = bits.read(5) + 1
    length_bits = [bits.read(4) + 1 for _ in range(4)]
    out = np.zeros(length, np.uint8)
    place = 0
    while place < length:
        repeated = bits.read(1)
        end = place + 1 + bits.read(length_bits[bits.read(2)])
        if end > length:
            raise ValueError("its brush has more pixels than its image")
        if repeated:
            out[place:end] = bits.read(value_bits) & 255
        else:
            out[place:end] = [bits.read(value_bits) & 255 for _ in range(end - place)]
        place = end
    return rle_codec.encode(out.reshape(height, width, 4)[:, :, 3] >= _OPAQUE)


def row_runs(rle: RLE) -> np.ndarray:
    """The mask's run lengths row by row, int64, starting with a run of 0."""
    flat = rle_codec.decode(rle).ravel()
    edges = np.flatnonzero(np.diff(flat.view(np.int8), prepend=0))
    return np.diff(np.concatenate([[0], edges, [len(flat)]]))


def task_of(
    address: str, shapes: list[tuple[RLE, str, str]], *, predicted: bool, version: str
) -> dict[str, Any]:
    """A task to import into Label Studio.

    Args:
        address: of the image, as Label Studio opens it.
        shapes: mask, category and id of each object.
        predicted: the masks are a model's, to be checked by people.
        version: of what made them.
    """
    results = [
        {
            "id": name,
            "type": "brushlabels",
            "from_name": "brush",
            "to_name": "image",
            "original_width": rle.size[1],
            "original_height": rle.size[0],
            "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_brush(rle), "brushlabels": [category]},
        }
        for rle, category, name in shapes
    ]
    kind = "predictions" if predicted else "annotations"
    held = {"result": results, **({"model_version": version} if predicted else {})}
    return {"data": {"image": address}, kind: [held]}


def config_of(names: list[str]) -> str:
    """The labelling configuration of a project that takes these tasks."""
    from xml.sax.saxutils import quoteattr

    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in names)
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="brush" toName="image">\n{labels}\n  </BrushLabels>\n</View>\n'
    )


def shape_of(result: dict[str, Any]) -> tuple[RLE | list[list[float]], tuple[int, int], str | None]:
    """The mask of one result, or its outline as COCO's rings; its image's (H, W); its label.

    Raises:
        ValueError: it is no region, or not a usable one.
    """
    value, kind = result.get("value"), result.get("type")
    if not isinstance(value, dict):
        raise ValueError(f"a result of type {kind!r:.40} is no region")
    sides = [result.get(f"original_{side}") for side in ("height", "width")]
    if not all(isinstance(side, int) and 0 < side < 1 << 16 for side in sides):
        raise ValueError(f"its image's size is {sides!r:.60}")
    size = int(sides[0] or 0), int(sides[1] or 0)
    labels = next((value[key] for key in value if key.endswith("labels")), None)
    label = str(labels[0]) if isinstance(labels, list) and labels else None
    if "rle" in value:
        return decode_brush(value["rle"], size), size, label
    return [_ring_of(value, size)], size, label


def _ring_of(value: dict[str, Any], size: tuple[int, int]) -> list[float]:
    """The outline of a polygon, rectangle or ellipse [x, y, x, y, ...]; Label Studio's unit is a
    hundredth of the image's side."""
    height, width = size
    try:
        if "points" in value:
            points = np.array(value["points"], np.float64).reshape(-1, 2)
        elif "radiusX" in value:
            turns = np.linspace(0, 2 * np.pi, 73)[:-1]
            radii = np.array([value["radiusX"], value["radiusY"]], np.float64)
            points = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radii
            points = points + np.array([value["x"], value["y"]], np.float64)
        elif "width" in value:
            x, y, w, h = (float(value[key]) for key in ("x", "y", "width", "height"))
            points = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
        else:
            raise ValueError(f"its shape is of an unknown kind: {', '.join(map(str, value))!r:.80}")
        pixels = points * (width / 100, height / 100)
        turn = math.radians(float(value.get("rotation") or 0))
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"its shape lacks a number: {error}") from error
    if turn:  # about the first corner, or the centre of an ellipse
        centre = pixels[0]
        if "radiusX" in value:
            centre = np.array([value["x"] * width / 100, value["y"] * height / 100])
        turned = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        pixels = (pixels - centre) @ turned + centre
    if not np.isfinite(pixels).all():
        raise ValueError("its shape has a corner that is no number")
    return [float(number) for number in pixels.ravel()]


class _Bits:
    """Reads whole numbers out of bytes, bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8)).tobytes()
        self._text = self._bits.translate(bytes([48, 49]) + bytes(254)).decode("ascii")
        self._place = 0

    def read(self, count: int) -> int:
        piece = self._text[self._place : self._place + count]
        if len(piece) < count:
            raise ValueError("its brush is cut off")
        self._place += count
        return int(piece, 2)
