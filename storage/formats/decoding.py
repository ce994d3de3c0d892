"""Decode bytes to a picture: the plugin, the limits, and the reason for a failure.

Pillow's plugins are called directly rather than through `Image.open`, which checks the process-wide
`Image.MAX_IMAGE_PIXELS`; here each call has its own limit, checked on the header. Some plugins read
that global themselves, so during a call it is at least the call's limit.

H = height, W = width, C = channels.
"""

from __future__ import annotations

import codecs
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageFile

from storage.formats import samples
from storage.formats.samples import TiffLayout, UnreadableError

EXTENSIONS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
}
MAX_SIDES = {"JPEG": 65_500, "AVIF": 32_768}
"""Limits of libraries in pixels per side: libjpeg (the format ends at 65,535), libavif."""
_KNOWN_OTHERS = (
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x00\x00\x01\x00", "an icon file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull`"),
    (4, b"ftyphei", "a HEIC photo; convert it to JPEG"),
    (4, b"ftypmif1", "a HEIC photo; convert it to JPEG"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL picture; export it as PNG or JPEG"),
    (4, b"JXL ", "a JPEG XL picture; export it as PNG or JPEG"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture; export it as TIFF"),
    (0, b"#?R", "a Radiance HDR picture; export it as TIFF"),
    (0, b"SIMPLE  =", "a FITS file; export it as TIFF"),
    (128, b"DICM", "a DICOM file; export it as PNG or TIFF"),
)
_GREY_DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_COLOUR_8BIT = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
)
_ORIENTATION_TAG = 0x0112
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


class BadImageError(ValueError):
    """The bytes are not a readable image. `reason` says why, in words for the user: show it,
    quarantine the file, and continue with the others."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture in 8 bits, its format by Pillow's name ("JPEG"), and EXIF orientations, 1 to 8: the
    one still to apply, and the file's, which Pillow has already applied to some TIFFs."""

    image: Image.Image
    format: str
    orientation: int
    stored_orientation: int


def decode(data: bytes, max_pixels: int, min_side: int) -> Decoded:
    """The picture, decoded completely.

    Args:
        max_pixels: of the whole picture.
        min_side: in pixels.

    Raises:
        BadImageError: empty, not an image, cut off or damaged, too large or small, or unsupported.
    """
    try:
        with _our_limit(max_pixels):
            return _decode(data, max_pixels, min_side)
    except _BOMBS as error:
        raise BadImageError(f"too large: {_limit(max_pixels)}") from error
    except BadImageError as error:
        shorter = _without_text(data) if "MAX_TEXT" in error.reason else data
        if len(shorter) == len(data):
            raise
    return decode(shorter, max_pixels, min_side)


_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_limits: list[int] = []
_limits_lock = threading.Lock()
_pillows_limit: int | None = None


@contextmanager
def _our_limit(max_pixels: int) -> Iterator[None]:
    """Set Pillow's global to the largest limit among running calls; the last one restores it."""
    global _pillows_limit
    with _limits_lock:
        if not _limits:
            _pillows_limit = Image.MAX_IMAGE_PIXELS
        _limits.append(max_pixels)
        Image.MAX_IMAGE_PIXELS = max(_limits)
    try:
        yield
    finally:
        with _limits_lock:
            _limits.remove(max_pixels)
            Image.MAX_IMAGE_PIXELS = max(_limits) if _limits else _pillows_limit


def _decode(data: bytes, max_pixels: int, min_side: int) -> Decoded:
    kind = _kind(data)
    layout = samples.tiff_layout(data) if kind == "TIFF" else None
    if layout is not None and not layout.is_plain:
        _check_size(layout.width, layout.height, max_pixels, min_side)
        return _read(kind, lambda: samples.read_tiff(data, layout), layout.orientation)
    image = _open(kind, data, layout)
    _check_size(image.width, image.height, max_pixels, min_side)
    _check_sides(kind, image.size)
    is_deep = _is_deep(kind, data, image, layout)
    before = _orientation(image) if kind == "TIFF" else 1
    _load(kind, data, image)
    left = _orientation(image)  # in PNG the tag may follow the pixels
    stored = left if before == 1 else before
    if is_deep:
        has_alpha = kind == "PNG" or _jpeg2000_alpha(data)
        size = image.size
        return _read(kind, lambda: samples.read_deep(data, size, has_alpha=has_alpha), stored)
    if image.mode in _GREY_DEEP:
        return Decoded(samples.stretch_grey(image), kind, left, stored)
    if image.mode not in _COLOUR_8BIT:
        raise BadImageError(f"{kind} with the colour mode {image.mode} is not supported")
    return Decoded(_without_false_alpha(image, kind, data, layout), kind, left, stored)


def count_pages(data: bytes, kind: str) -> int:
    """The number of pages or frames of a file that `decode` reads; the preview in a phone's JPEG
    does not count."""
    if kind == "JPEG":
        return 1
    try:
        if kind == "TIFF":
            return samples.count_tiff_pages(data)
        return int(getattr(_open(kind, data), "n_frames", 1))
    except Exception:  # damaged later pages make the plugins raise nearly anything
        return 1


def _load(kind: str, data: bytes, image: ImageFile.ImageFile) -> None:
    """Decode what Pillow can, to detect damage."""
    try:
        if kind == "PPM" and _ppm_bytes(image) > len(data):
            raise EOFError("its last pixels are missing")
        if kind == "PPM" and _ppm_bytes(image):
            return  # Pillow is slow: microseconds per value
        if kind == "PNG":  # Pillow stops after the last row, before the checksum
            _open(kind, data).verify()
        image.load()
    except _BOMBS:
        raise
    except Exception as e:  # damaged files make the plugins raise nearly anything
        raise BadImageError(f"the {kind} file is cut off or damaged ({e})") from e


def _ppm_bytes(image: ImageFile.ImageFile) -> int:
    """The expected bytes of a PPM with two bytes per value; 0 for any other."""
    for tile in image.tile:
        if tile.codec_name == "ppm" and _ppm_maximum(tile.args) > 255:
            bands = 3 if image.mode == "RGB" else 1
            return int(tile.offset) + 2 * bands * image.width * image.height
    return 0


def _ppm_maximum(arguments: object) -> int:
    return int(arguments[-1]) if isinstance(arguments, tuple) else 0


def _read(kind: str, read: Callable[[], Image.Image], orientation: int) -> Decoded:
    try:
        return Decoded(read(), kind, orientation, orientation)
    except UnreadableError as error:
        raise BadImageError(f"the {kind} file cannot be shown: {error}") from error
    except Exception as e:  # damaged files make the libraries raise nearly anything
        raise BadImageError(f"the {kind} file is cut off or damaged ({e})") from e


def _kind(data: bytes) -> str:
    """The format by the first bytes."""
    if not data:
        raise BadImageError("the file is empty")
    Image.init()
    for kind in EXTENSIONS:
        if kind not in Image.OPEN:
            continue
        accepts = Image.OPEN[kind][1]
        answer = accepts is None or accepts(data[:16])
        if answer and not isinstance(answer, str):  # a string names what the plugin lacks
            return kind
    raise BadImageError(_describe_other(data))


def _open(kind: str, data: bytes, layout: TiffLayout | None = None) -> ImageFile.ImageFile:
    """Read the header only."""
    try:
        return Image.OPEN[kind][0](BytesIO(data), "")
    except _BOMBS:
        raise
    except Exception as e:  # damaged files make the plugins raise nearly anything
        if kind == "AVIF" and (start := data.find(b"ispe")) >= 0:
            _check_sides(kind, struct.unpack_from(">II", data.ljust(start + 16), start + 8))
        if layout is not None and "unknown pixel mode" in str(e):
            raise BadImageError(f"{kind} with {layout} is not supported") from e
        raise BadImageError(
            f"the {kind} file is cut off, damaged, or of an unsupported kind ({e})"
        ) from e


def _is_deep(kind: str, data: bytes, image: ImageFile.ImageFile, layout: TiffLayout | None) -> bool:
    """Whether it has more than 8 bits per band, which Pillow would truncate, or decode too
    slowly."""
    if kind == "PPM":
        return any(_ppm_maximum(tile.args) > 255 for tile in image.tile)
    if image.mode in _GREY_DEEP:
        return False
    if kind == "PNG" or (kind == "TIFF" and layout is None):
        return any(";16" in str(tile.args) for tile in image.tile)
    return kind == "JPEG2000" and _jpeg2000_bits(data) > 8


def _jpeg2000_bits(data: bytes) -> int:
    """Bits of the first component, from the codestream's SIZ segment."""
    start = data.find(b"\xff\x4f\xff\x51")
    return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else 0


def _jpeg2000_alpha(data: bytes) -> bool:
    """Whether the file's channel definitions include opacity."""
    header = data[: data.find(b"jp2c")] if b"jp2c" in data else b""
    start = header.find(b"cdef") + 4
    if start < 4 or len(header) < start + 2:
        return False
    (count,) = struct.unpack_from(">H", header, start)
    ends = range(start + 2, min(start + 2 + 6 * count, len(header) - 5), 6)
    return any(struct.unpack_from(">H", header, at + 2)[0] in (1, 2) for at in ends)


def _without_false_alpha(
    image: Image.Image, kind: str, data: bytes, layout: TiffLayout | None
) -> Image.Image:
    """Drop a fourth band that Pillow takes for alpha although the file does not say so."""
    if image.mode != "RGBA":
        return image
    if kind == "TIFF":
        is_alpha = layout is None or layout.alpha is not None
    else:
        is_alpha = kind != "JPEG2000" or _jpeg2000_alpha(data)
    return image if is_alpha else image.convert("RGB")


def _without_text(data: bytes) -> bytes:
    """A PNG without texts and colour profile, which are unused: Pillow refuses large ones."""
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] not in _TEXT_CHUNKS:
            kept.append(data[at : at + length + 12])
        at += length + 12
    return b"".join(kept)


def _describe_other(data: bytes) -> str:
    """The reason for a file that no plugin accepts."""
    for offset, signature, name in _KNOWN_OTHERS:
        if data.startswith(signature, offset):
            return f"not a supported image: the file is {name}"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data[:512])
    except UnicodeDecodeError:
        text = ""
    if "<svg" in text:
        return "not a supported image: the file is an SVG drawing; export it as PNG"
    if text and "\x00" not in text:
        return f"not an image: the file holds text ({text[:40]!r})"
    return "not an image: its first bytes match no image format that is known here"


def _limit(max_pixels: int) -> str:
    return f"at most {max_pixels:,} are read (the setting max_pixels)"


def _check_size(width: int, height: int, max_pixels: int, min_side: int) -> None:
    if width * height > max_pixels:
        raise BadImageError(
            f"too large: {width} x {height} = {width * height:,} pixels, {_limit(max_pixels)}"
        )
    if min(width, height) < min_side:
        raise BadImageError(f"too small: {width} x {height} pixels, each side needs {min_side}")


def _check_sides(kind: str, size: tuple[int, ...]) -> None:
    most = MAX_SIDES.get(kind)
    if most is not None and max(size) > most:
        raise BadImageError(
            f"too large: {size[0]} x {size[1]}, a {kind} is read up to {most:,} pixels a side; save"
            " it as PNG or TIFF"
        )


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 if there is none or the block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Pillow raises several kinds here; the pixels may be fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
