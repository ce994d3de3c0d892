"""Pictures with more than 8 bits per sample or with extra bands: which bands are colour, which one
is alpha, and how the range is stretched to uint8.

- TIFF: tifffile reads the samples. Without a codec in tifffile (e.g. LZW), Pillow reads one band,
  and OpenCV red, green, blue and at most one more, interleaved.
- PNG, PPM and JPEG 2000 with more than 8 bits per colour: OpenCV.

H = height, W = width, C = channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

_percentiles: ContextVar[tuple[float, float]] = ContextVar("percentiles", default=(0.1, 99.9))
_SAMPLES = 4_000_000
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_UNSIGNED, _SIGNED, _FLOAT, _UNSAID = 1, 2, 3, 4
_NUMBERS = (_UNSIGNED, _SIGNED, _FLOAT, _UNSAID)
_ALPHA, _PREMULTIPLIED = (1, 2, 999), 1  # 999: written by Corel Draw
_NO_DATA = 42113
"""GDAL's tag for the number that means no data."""
_MAX_BYTES_PER_PIXEL = 32
"""Of all bands, which are decoded together."""
_OPENCV_SIDE, _OPENCV_PIXELS = 1 << 20, 1 << 30

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its findings become reasons


class UnreadableError(ValueError):
    """The samples cannot be read or shown; the message says why."""


@contextmanager
def percentiles(low: float, high: float) -> Iterator[None]:
    """Within it, `stretch` maps these percentiles, 0 to 100, to 0 and 255."""
    token = _percentiles.set((low, high))
    try:
        yield
    finally:
        _percentiles.reset(token)


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Layout of the samples in a TIFF's first page; sizes in pixels."""

    page: tifffile.TiffPage = field(repr=False)
    height: int
    width: int
    photometric: int
    bits: int
    format: int
    """1 unsigned, 2 signed, 3 float."""
    bands: int
    extra: tuple[int, ...]
    """Kinds of the bands beyond the colours: 1 and 2 alpha, 0 unspecified."""
    is_planar: bool
    """Whether each band is stored separately."""
    orientation: int
    """EXIF's, 1 to 8."""

    @property
    def alpha(self) -> int | None:
        """Index of the band that the file marks as alpha, or None."""
        first = self.bands - len(self.extra)
        return next((first + i for i, kind in enumerate(self.extra) if kind in _ALPHA), None)

    @property
    def colours(self) -> list[int]:
        """Indices of the visible bands: the first three, or only the first if there are fewer."""
        shown = [band for band in range(self.bands) if band != self.alpha]
        return shown[:3] if len(shown) >= 3 else shown[:1]

    @property
    def is_plain(self) -> bool:
        """Whether Pillow reads it correctly, except that it takes a fourth band for alpha."""
        if self.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            return True  # palette, CMYK, YCbCr: only Pillow reads them
        few = self.bands <= (6 if self.photometric == _RGB else 2)
        apart = self.is_planar and self.bands > 3
        return self.bits <= 8 and self.format == _UNSIGNED and few and not apart

    def __str__(self) -> str:
        kinds = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "floating-point", _UNSAID: "raw"}
        kind = kinds.get(self.format, "complex")
        planes = ", in planes" if self.is_planar and self.bands > 1 else ""
        name = getattr(self.page.photometric, "name", self.photometric)
        bands = f"{self.bands} band{'s' * (self.bands > 1)}"
        return f"{bands} of {self.bits} bits, {kind}{planes} ({name})"


def tiff_layout(data: bytes) -> TiffLayout | None:
    """The layout of the first page; None if the file is too damaged."""
    try:
        page = tifffile.TiffFile(BytesIO(data)).pages[0]
        assert isinstance(page, tifffile.TiffPage)
        bands = int(page.samplesperpixel)
        colours = 3 if int(page.photometric) == _RGB else 1
        turned = int(page.tags.valueof("Orientation", 1))
        extra = tuple(int(kind) for kind in page.extrasamples)[: max(0, bands - colours)]
        return TiffLayout(
            page=page,
            height=int(page.imagelength),
            width=int(page.imagewidth),
            photometric=int(page.photometric),
            bits=int(page.bitspersample),
            format=int(page.sampleformat),
            bands=bands,
            extra=extra + (0,) * (bands - colours - len(extra)),
            is_planar=int(page.planarconfig) == 2,
            orientation=turned if 1 <= turned <= 8 else 1,
        )
    except Exception:  # damaged files raise nearly anything; Pillow then reports its finding
        return None


def count_tiff_pages(data: bytes) -> int:
    """The number of pages in a TIFF."""
    with tifffile.TiffFile(BytesIO(data)) as file:
        return len(file.pages)


def read_tiff(data: bytes, layout: TiffLayout) -> Image.Image:
    """The picture of a TIFF that is not plain, as L, RGB or RGBA, not rotated.

    Raises:
        UnreadableError: no decoder reads such samples.
    """
    if layout.bands * layout.bits > 8 * _MAX_BYTES_PER_PIXEL:
        raise UnreadableError(
            f"{layout} are more than {_MAX_BYTES_PER_PIXEL} bytes per pixel; keep fewer bands"
        )
    if layout.format not in _NUMBERS:
        raise UnreadableError(
            f"{layout}: complex numbers are not a picture; save their magnitude or phase"
        )
    samples_HWC = _tiff_samples(data, layout)
    if samples_HWC.shape != (layout.height, layout.width, layout.bands):
        raise UnreadableError(f"{layout}: cut off or damaged ({samples_HWC.shape} values)")
    if samples_HWC.dtype == np.bool_:
        samples_HWC = samples_HWC * np.uint8(255)
    colours = layout.colours
    colour = samples_HWC[..., colours] if len(colours) > 1 else samples_HWC[..., colours[0]]
    alpha = None if layout.alpha is None else _as_alpha(samples_HWC[..., layout.alpha])
    seen = _measured(colour, layout.page)
    if alpha is not None and _PREMULTIPLIED in layout.extra:
        colour = _divided(colour, alpha)
    if layout.photometric == _WHITE_IS_ZERO:
        colour = ~colour if colour.dtype.kind in "iu" else -colour
    return _picture(colour, alpha, seen)


def stretch_grey(image: Image.Image) -> Image.Image:
    """Stretch Pillow's grey of more than 8 bits to 8; a transparent value stays transparent."""
    values = np.asarray(image)
    transparent = image.info.get("transparency")
    alpha = None
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
    return _picture(values, alpha)


def read_deep(data: bytes, size: tuple[int, int], *, has_alpha: bool) -> Image.Image:
    """A 16-bit PNG, PPM or JPEG 2000, stretched to 8 bits and not rotated; `has_alpha`: a fourth
    band is alpha.

    Raises:
        UnreadableError: OpenCV cannot read it, or not at this (width, height).
    """
    _check_opencv(size)
    pixels = _opencv(data)
    if pixels is None or pixels.dtype != np.uint16:
        raise UnreadableError("its 16-bit values cannot be read; save it as TIFF or with 8 bits")
    if pixels.ndim == 2:
        return _picture(pixels, None)
    alpha = _as_alpha(pixels[..., 3]) if has_alpha and pixels.shape[2] == 4 else None
    return _picture(pixels[..., 2::-1], alpha)


def _tiff_samples(data: bytes, layout: TiffLayout) -> np.ndarray:
    """All samples as (H, W, bands)."""
    try:
        found = layout.page.asarray(squeeze=False, maxworkers=1)
        return np.asarray(found[:, 0].transpose(1, 2, 0, 3).reshape(*found.shape[2:4], -1))
    except Exception as error:  # damaged files make it raise nearly anything
        if not _lacks_codec(error):
            raise UnreadableError(f"{layout}: cut off or damaged ({error})") from error
        other = _pillow_grey(data, layout) if layout.bands == 1 else _opencv_rgb(data, layout)
        if other is None:
            name = getattr(layout.page.compression, "name", layout.page.compression)
            raise UnreadableError(
                f"{layout}, compressed by {name}, are not read; save it uncompressed or with"
                " Deflate, or install the Python package imagecodecs"
            ) from error
        return other


def _lacks_codec(error: Exception) -> bool:
    return "imagecodecs" in str(error) or isinstance(error, ImportError | NotImplementedError)


def _pillow_grey(data: bytes, layout: TiffLayout) -> np.ndarray | None:
    if (layout.format, layout.bits) == (_UNSIGNED, 32):  # Pillow reads them as signed
        return None
    try:
        with Image.open(BytesIO(data), formats=["TIFF"]) as image:
            return np.asarray(image)[..., None]
    except Exception:  # damaged files make it raise nearly anything
        return None


def _opencv_rgb(data: bytes, layout: TiffLayout) -> np.ndarray | None:
    """Read a TIFF with OpenCV if it has red, green, blue and at most one more band, interleaved."""
    if layout.photometric != _RGB or layout.bands > 4 or layout.is_planar:
        return None
    _check_opencv((layout.width, layout.height))
    pixels = _opencv(data)
    wanted = (layout.height, layout.width, layout.bands)
    if pixels is None or pixels.shape != wanted or pixels.dtype.itemsize * 8 != layout.bits:
        return None
    return pixels[..., [2, 1, 0, 3][: layout.bands]]


def _opencv(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _check_opencv(size: tuple[int, int]) -> None:
    if max(size) > _OPENCV_SIDE or size[0] * size[1] > _OPENCV_PIXELS:
        raise UnreadableError(
            f"more than 8 bits per band are read up to {_OPENCV_SIDE:,} pixels per side and"
            f" {_OPENCV_PIXELS:,} in total (OpenCV's limits), and this has {size[0]} x {size[1]}"
        )


def _measured(colour: np.ndarray, page: tifffile.TiffPage) -> np.ndarray | None:
    """Which pixels (H, W) have data, bool; None if the file names no number for missing data."""
    tag = page.tags.get(_NO_DATA)
    try:
        missing = float(str(tag.value).strip("\x00 ")) if tag is not None else None
    except ValueError:
        return None
    if missing is None:
        return None
    holds = colour != missing
    return np.asarray(holds.any(axis=2) if holds.ndim == 3 else holds)


def _as_alpha(band_HW: np.ndarray) -> np.ndarray:
    """The band as uint8: integers scaled from the range of their type, floats from 0 to 1."""
    if band_HW.dtype.kind in "iu":
        share = band_HW / np.float32(np.iinfo(band_HW.dtype).max)
    else:
        share = np.nan_to_num(band_HW.astype(np.float32))
    return np.asarray((np.clip(share, 0, 1) * 255).astype(np.uint8))


def _divided(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Undo the multiplication of colours with alpha."""
    share = np.maximum(alpha, 1).astype(np.float32) / 255
    divided = colour / (share[..., None] if colour.ndim == 3 else share)
    if colour.dtype != np.uint8:
        return np.asarray(divided)
    return np.asarray(np.clip(divided, 0, 255).round().astype(np.uint8))


def _picture(
    colour: np.ndarray, alpha: np.ndarray | None, seen: np.ndarray | None = None
) -> Image.Image:
    """The picture: uint8 unchanged, other numbers stretched by the visible pixels."""
    if alpha is not None and not (alpha == 255).any():
        alpha = None
    if colour.dtype != np.uint8:
        if alpha is not None:
            seen = alpha > 0 if seen is None else seen & (alpha > 0)
        colour = stretch(colour, seen)
    if alpha is None:
        return Image.fromarray(np.ascontiguousarray(colour))
    if colour.ndim == 2:
        colour = np.repeat(colour[..., None], 3, axis=2)
    return Image.fromarray(np.concatenate([colour, alpha[..., None]], axis=2))


def stretch(values: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Map numbers of shape (H, W) or (H, W, C) to uint8, the low and high percentile (0.1 and 99.9,
    or those of `percentiles`) to 0 and 255.

    The percentiles are over at most about four million evenly spaced pixels, all channels together,
    so colours keep their hue. NaN and pixels not `seen` (bool, (H, W)) become 0; an image of one
    value becomes black.
    """
    step = max(1, int(np.sqrt(values.size / _SAMPLES)))
    low, high = _ends(values[::step, ::step], None if seen is None else seen[::step, ::step], True)
    if high <= low:  # nearly all pixels are equal: the few others are the content
        low, high = _ends(values, seen, False)
    out = np.zeros(values.shape, np.uint8)
    if high <= low:
        return out
    for top in range(0, len(values), 512):  # in bands: as float64 the whole is eight times larger
        band = (values[top : top + 512].astype(np.float64) - low) * (255.0 / (high - low))
        out[top : top + 512] = np.nan_to_num(np.clip(band, 0, 255), nan=0.0).round()
    if seen is not None:
        out[~seen] = 0
    return out


def _ends(values: np.ndarray, seen: np.ndarray | None, is_robust: bool) -> tuple[Any, Any]:
    found = values.ravel() if seen is None else values[seen].ravel()
    found = found[np.isfinite(found)].astype(np.float64)
    if not len(found):
        return 0.0, 0.0
    ends = np.percentile(found, _percentiles.get()) if is_robust else (found.min(), found.max())
    return ends[0], ends[1]
