"""Read and write SA-1B's JSON, one file per image, with its field names verbatim.

Format: https://github.com/facebookresearch/segment-anything#dataset. Readers of SA-1B index every
field unconditionally (`ann["predicted_iou"]`, `ann["point_coords"][0]`), so each annotation has all
of them, even if an annotator drew the mask without a model:

- `predicted_iou`, `stability_score`: null, unless the caller passes `missing_score`. A default
  number would distort every statistic; NaN is not JSON. Readers that need a number (TFDS, or a
  filter like `>= 0.88`) fail visibly on null; use `missing_score=1.0` for them.
- `point_coords`: if none was recorded, a pixel in the middle of the mask's longest run, so there is
  always one point [x, y] inside the mask.
- `crop_box`: if none was recorded, the whole image.
- `category_id`: an extra, only in exports of datasets with categories; null without a category.

Annotation ids count from 1 within their file; only the file's image id is unique in a release.
SA-1B's own boxes end one pixel early (their edges are inclusive), so `read_sa1b` takes boxes and
areas from the masks, not from the file.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.records import Mask
from engine.core.rle import RLE, area, box_xyxy
from storage.formats import json_columns as columns
from storage.formats.coco import BadAnnotationsError, parse_json_object
from storage.formats.coco_writer import boxes, check_sizes, rles_of, scores, segmentations
from storage.formats.pages import Page, page_of
from storage.formats.segmentation import json_type, rle_from_json, run_lengths


@dataclass(frozen=True, kw_only=True, slots=True)
class Sa1bMask:
    """One annotation. Boxes are half-open pixel XYXY, points (x, y), scores in [0, 1]."""

    annotation_id: int
    rle: RLE
    area: int
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float | None
    stability_score: float | None
    crop_xyxy: tuple[int, int, int, int]
    points_xy: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sa1bImage:
    """One SA-1B file: an image and its masks, all of the image's size."""

    image_id: int
    file_name: str
    height: int
    width: int
    masks: tuple[Sa1bMask, ...]


def sa1b_texts(page: Page, *, missing_score: float | None = None, named: bool = False) -> pa.Array:
    """The content of the SA-1B file of each of the page's images, as JSON text.

    Args:
        page: images, with `status` as an extra field of those that have one, and masks.
        missing_score: replaces missing scores of masks; see the module.
        named: `category_id` is an extra field of each annotation, null without a category.

    Raises:
        ValueError: a mask's size is not its image's, or a score is not a finite number.
    """
    check_sizes(page)
    of_image = page.image_of_masks()
    numbers = np.arange(len(of_image)) - page.starts[of_image] + 1
    whole = [columns.integers(page.column(name)) for name in ("width", "height")]
    crop = pc.fill_null(boxes(page, "crop"), columns.list_of(["0", "0", *whole]))
    extra: list[pa.Array | str] = []
    if named:
        category = pc.fill_null(columns.integers(page.column("category_id")), "null")
        extra = [',"category_id":', category]
    lines = columns.joined(
        *('{"id":', columns.integers(pa.array(numbers))),
        *(',"segmentation":', *segmentations(page)),
        *(',"bbox":', boxes(page)),
        *(',"area":', columns.integers(page.column("area"))),
        *(',"predicted_iou":', _scores(page, "predicted_iou", missing_score)),
        *(',"stability_score":', _scores(page, "stability_score", missing_score)),
        *(',"crop_box":', crop),
        *(',"point_coords":', _points(page)),
        *(*extra, "}"),
    )
    return columns.joined(
        *('{"image":{"image_id":', columns.integers(page.image_column("image_id"))),
        *(',"width":', columns.integers(page.image_column("width"))),
        *(',"height":', columns.integers(page.image_column("height"))),
        *(',"file_name":', columns.texts(page.image_column("file_name"))),
        columns.optional(',"status":', columns.texts(page.image_column("status"))),
        *('},"annotations":[', columns.grouped(lines, page.starts), "]}"),
    )


def write_sa1b(
    path: Path,
    image_id: int,
    file_name: str,
    height: int,
    width: int,
    masks: Iterable[Mask],
    *,
    missing_score: float | None = None,
    status: str | None = None,
    category_ids: Mapping[str, int] | None = None,
) -> None:
    """Write an image's SA-1B file atomically. `status` and `category_ids` (by mask id), if given,
    are extra fields.

    Raises:
        ValueError: as `sa1b_texts`.
        OSError: the file cannot be written.
    """
    image = {"image_id": image_id, "file_name": file_name, "height": height, "width": width}
    page = page_of(image | {"status": status}, masks, category_ids)
    named = category_ids is not None
    (text,) = sa1b_texts(page, missing_score=missing_score, named=named).to_pylist()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read_sa1b(source: Path | str | bytes) -> Sa1bImage:
    """Parse an SA-1B file, given by its path or as its bytes.

    Scores, crop box and points may be missing or null; all else is required and must fit.

    Raises:
        BadAnnotationsError: with the file, the annotation and the fault.
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        data, name = source, "SA-1B file"
    else:
        data, name = Path(source).read_bytes(), str(source)
    content = parse_json_object(data, name)
    try:
        return _image_of(content)
    except ValueError as e:
        raise BadAnnotationsError(f"{name}: {e}") from e


def _scores(page: Page, name: str, missing: float | None) -> pa.Array:
    written = scores(page, name, "a score of")
    return pc.fill_null(written, "null" if missing is None else str(float(missing)))


def _points(page: Page) -> pa.Array:
    """The point that prompted each mask as a JSON list of points, or one inside the mask."""
    sides = [scores(page, name, "a point at") for name in ("point_x", "point_y")]
    known = columns.joined("[", columns.list_of(sides), "]")
    without = np.flatnonzero(pc.is_null(known).to_numpy(zero_copy_only=False))
    if not len(without):
        return known
    inner = [_inner_text(rle) for rle in rles_of(page.masks.take(pa.array(without)))]
    return pc.replace_with_mask(known, pc.is_null(known), pa.array(inner, pa.string()))


def _inner_text(rle: RLE) -> str:
    point = _inner_point(rle)
    return "[]" if point is None else f"[[{point[0]}.0,{point[1]}.0]]"


def _inner_point(rle: RLE) -> tuple[int, int] | None:
    """A set pixel (x, y): the middle of the longest run. None for an empty mask."""
    runs = run_lengths(rle)
    ends = np.cumsum(runs)
    if len(runs) < 2:
        return None
    longest = 1 + 2 * int(np.argmax(runs[1::2]))
    x, y = divmod(int(ends[longest] - runs[longest] + runs[longest] // 2), rle.size[0])
    return x, y


def _image_of(content: dict[str, Any]) -> Sa1bImage:
    image, annotations = content.get("image"), content.get("annotations")
    if not isinstance(image, dict):
        raise ValueError("SA-1B needs an object 'image'")
    if not isinstance(annotations, list):
        raise ValueError("SA-1B needs a list 'annotations'")
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise ValueError("its image has no 'file_name'")
    height, width = _integer(image, "height", at_least=1), _integer(image, "width", at_least=1)
    masks = []
    for number, annotation in enumerate(annotations):
        try:
            masks.append(_mask_of(annotation, (height, width)))
        except ValueError as e:
            raise ValueError(f"annotation number {number}: {e}") from e
    return Sa1bImage(
        image_id=_integer(image, "image_id"),
        file_name=file_name,
        height=height,
        width=width,
        masks=tuple(masks),
    )


def _mask_of(annotation: object, size: tuple[int, int]) -> Sa1bMask:
    if not isinstance(annotation, dict):
        raise ValueError(f"expected an object, got a {json_type(annotation)}")
    rle = rle_from_json(annotation.get("segmentation"))
    if rle.size != size:
        raise ValueError(f"its mask is {rle.size} pixels (H, W), the image {size}")
    crop_xywh = _numbers(annotation.get("crop_box") or [0, 0, size[1], size[0]], 4, "crop_box")
    x, y, w, h = (round(value) for value in crop_xywh)
    points = annotation.get("point_coords") or []
    if not isinstance(points, list):
        raise ValueError(f"point_coords must be a list of points, got a {json_type(points)}")
    pairs = [_numbers(point, 2, "point_coords") for point in points]
    return Sa1bMask(
        annotation_id=_integer(annotation, "id"),
        rle=rle,
        area=area(rle),
        box_xyxy=box_xyxy(rle),
        predicted_iou=_score(annotation, "predicted_iou"),
        stability_score=_score(annotation, "stability_score"),
        crop_xyxy=(x, y, x + w, y + h),
        points_xy=tuple((pair[0], pair[1]) for pair in pairs),
    )


def _integer(record: dict[str, Any], key: str, at_least: int = 0) -> int:
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{key!r} must be an integer of at least {at_least}, got {value!r:.80}")
    return value


def _score(record: dict[str, Any], key: str) -> float | None:
    value = record.get(key)
    return None if value is None else _numbers([value], 1, key)[0]


def _numbers(values: object, count: int, name: str) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{name} must hold {count} numbers, got {values!r:.80}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must hold numbers, got {value!r:.80}")
        if not abs(value) < 1e15:
            raise ValueError(f"{name} must hold finite numbers, got {value!r:.80}")
    return [float(value) for value in values]
