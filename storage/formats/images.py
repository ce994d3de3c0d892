"""Image files: check the bytes completely, read them as RGB, write them.

The rest of the project sees RGB uint8 of shape (H, W, 3), in [0, 255], rotated upright by the EXIF
orientation. The rules (docs/inputs.md has them for users):

- Colour: the bands that the file marks as red, green and blue; of a TIFF without colour bands the
  first three, of fewer than three the first as grey. Other bands are ignored.
- Alpha: only the band that the file marks as alpha, and only if some pixel is opaque; the picture
  is then composited on white, as viewers and web pages show such files.
- Range: 8 bits are unchanged. More (16-bit, 32-bit, float; grey or colour) are stretched so that
  the 0.1 and 99.9 percentiles of visible pixels, all colours together, become 0 and 255. Keeping
  the high byte would turn a microscope image that uses 1 % of its range black; the price is that
  absolute brightness is lost.
- Inverted: a TIFF whose zero is white.
- CMYK, YCbCr, HSV: Pillow's formulas; embedded colour profiles are not applied.
- Several frames or pages: the first one.

H = height, W = width, C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image

from engine.core.near_duplicates import SIDE
from storage.formats.decoding import EXTENSIONS, MAX_SIDES, BadImageError, count_pages, decode
from storage.formats.samples import percentiles, stretch

__all__ = [
    "FLAT",
    "JPEG_MAX_SIDE",
    "BadImageError",
    "ImageInfo",
    "inspect_image",
    "is_flat",
    "read_image",
    "read_stretched",
    "thumbnail",
    "write_jpeg",
    "write_png",
]

MAX_PIXELS = 200_000_000
MIN_SIDE = 2
JPEG_MAX_SIDE = MAX_SIDES["JPEG"]
FLAT = "read as nearly one colour; check that it is shown correctly (docs/inputs.md)"
"""Warning for an image that `is_flat`; it is used like any other."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
"""Suffixes of image files."""
_FLAT_LEVELS, _FLAT_SHARE = 16, 0.999
_BAND_PIXELS = 1 << 24
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Facts about an image file. `height` and `width` are pixels after EXIF rotation, `format` is
    Pillow's name ("JPEG"), `extension` the usual one with its dot (".jpg"), `orientation` EXIF's,
    1 to 8; `pages` counts pages or frames, of which the first is read; `is_flat` is the result of
    the function of that name; `thumbnail_HWC` is what `engine.core.near_duplicates` works on."""

    height: int
    width: int
    format: str
    extension: str
    orientation: int = 1
    pages: int = 1
    is_flat: bool = False
    thumbnail_HWC: np.ndarray | None = field(default=None, compare=False)


def inspect_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> ImageInfo:
    """Check an image file by decoding it completely: `read_image` can read what passes.

    The size is checked on the header, before any pixel is decoded.

    Raises:
        BadImageError: empty, not an image, cut off or damaged, too large or small, or unsupported.
    """
    decoded = decode(data, max_pixels, min_side)
    width, height = decoded.image.size
    if decoded.orientation >= 5:
        height, width = width, height
    kind, seen = decoded.format, _on_white(decoded.image)
    return ImageInfo(
        height,
        width,
        kind,
        EXTENSIONS[kind],
        orientation=decoded.stored_orientation,
        pages=count_pages(data, kind),
        is_flat=_is_flat(seen),
        thumbnail_HWC=np.array(_upright(_small(seen), decoded.orientation)),
    )


def read_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> np.ndarray:
    """The picture as RGB uint8 of shape (H, W, 3), upright, converted by the rules above.

    Raises:
        BadImageError: as `inspect_image`.
    """
    decoded = decode(data, max_pixels, min_side)
    return _array(_upright(_on_white(decoded.image), decoded.orientation))


def read_stretched(
    data: bytes, low: float, high: float, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The picture with another range: of the values in the file, of whatever depth, the `low` and
    `high` percentile become 0 and 255, all colours together. RGB uint8 (H, W, 3), upright.

    Raises:
        BadImageError: as `inspect_image`.
    """
    with percentiles(low, high):
        # a deep image is stretched as it is decoded; doing it again changes nothing
        return stretch(read_image(data, max_pixels=max_pixels))


def thumbnail(image_HWC: np.ndarray) -> np.ndarray:
    """The thumbnail of RGB uint8 (H, W, 3) that `inspect_image` finds in the file, uint8 (32, 32,
    3)."""
    return np.array(_small(Image.fromarray(image_HWC)))


def is_flat(image_HWC: np.ndarray) -> bool:
    """Whether RGB uint8 (H, W, 3) is nearly one colour: it may be empty, or of a file kind that is
    not converted well."""
    return _is_flat(Image.fromarray(image_HWC))


def write_jpeg(image_HWC: np.ndarray, quality: int = 92) -> bytes:
    """Encode RGB uint8 (H, W, 3) as JPEG (4:2:0 chroma); `quality` in 1 to 100.

    Raises:
        ValueError: another array or quality, or a side beyond libjpeg's 65,500 pixels.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality must be in 1 to 100, got {quality}")
    if max(image_HWC.shape, default=0) > JPEG_MAX_SIDE:
        raise ValueError(f"JPEG sides end at {JPEG_MAX_SIDE:,} pixels, got shape {image_HWC.shape}")
    return _write(image_HWC, "JPEG", quality=quality)


def write_png(image_HWC: np.ndarray) -> bytes:
    """Encode RGB uint8 (H, W, 3) as PNG, without loss.

    Raises:
        ValueError: another array.
    """
    return _write(image_HWC, "PNG")


def _small(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    seen = image.convert("RGBA")
    least, most = seen.getchannel("A").getextrema()
    if least == 255 or most != 255:  # it hides nothing, or everything and so is not real alpha
        return seen.convert("RGB")
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert("RGB")


def _array(image: Image.Image) -> np.ndarray:
    """A picture in RGB as uint8 (H, W, 3), by bands: Pillow would hold all of its bytes twice."""
    width, height = image.size
    out_HWC = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        out_HWC[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return out_HWC


def _is_flat(image: Image.Image) -> bool:
    """Whether nearly all pixels are within a few levels in each channel of RGB."""
    levels = np.reshape(image.histogram(), (3, 256))
    below = np.cumsum(np.pad(levels, ((0, 0), (1, 0))), axis=1)
    within = below[:, _FLAT_LEVELS:] - below[:, :-_FLAT_LEVELS]
    return bool(within.max(axis=1).min() >= _FLAT_SHARE * below[0, -1])


def _write(image_HWC: np.ndarray, kind: str, **options: int) -> bytes:
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise ValueError(
            f"expected uint8 of shape (H, W, 3), got {image_HWC.dtype} of shape {image_HWC.shape}"
        )
    if 0 in image_HWC.shape:
        raise ValueError(f"expected at least one pixel, got shape {image_HWC.shape}")
    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HWC)).save(out, kind, **options)
    return out.getvalue()
