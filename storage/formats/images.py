"""Image files in and out: check the bytes completely, read them as RGB, write them, find them.

Whatever a file holds, the rest of the project sees RGB uint8 of shape (H, W, 3), in [0, 255],
turned upright as its EXIF orientation says. The choices made on the way:

- More than 8 bits per channel (16-bit, 32-bit, float; grey or colour): stretched so that the 0.1
  and 99.9 percentiles of the whole image become 0 and 255. Keeping the high byte would turn a
  microscope image that uses 1 % of its range black; the price is that absolute brightness is lost.
- Transparency: composited on white, which is how viewers and web pages show such files.
- CMYK, YCbCr, HSV: Pillow's formulas; embedded colour profiles are not applied.
- Several frames or pages: the first one.

Pillow's plugins are called directly rather than through `Image.open`, because that one raises or
warns by the process-wide `Image.MAX_IMAGE_PIXELS`; here each call has its own limit, decided from
the header, and the global is left alone. Pillow still applies its own limit (178,956,970 pixels
unless changed) while decoding TIFF and WebP.

H = height, W = width, C = channels.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFile

from storage.outputs import OutputFolder

MAX_PIXELS = 200_000_000
MIN_SIDE = 2

_EXTENSIONS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
    "MPO": ".jpg",  # several JPEGs in one file, as phones write them: the JPEG plugin opens it
}
_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
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
    (128, b"DICM", "a DICOM file; export it as PNG or TIFF"),
)
_GREY_DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_COLOUR_8BIT = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
)
_PERCENTILES = (0.1, 99.9)
_SAMPLES = 4_000_000
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImageError(ValueError):
    """These bytes are no usable image. `reason` says why in words for the person who sent the file:
    show it to them, put the file aside, and go on with the others."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image file holds. `height` and `width` are pixels after EXIF orientation, `format` is
    Pillow's name ("JPEG"), `extension` the usual one with its dot (".jpg")."""

    height: int
    width: int
    format: str
    extension: str


@dataclass(frozen=True, slots=True)
class _Decoded:
    image: Image.Image
    orientation: int
    """What is still to be done to `image`: EXIF's 1 to 8."""
    stored_orientation: int
    """The file's own, before Pillow turned `image` (it does so for TIFF)."""
    deep_colour: bool
    """The file has 16 bits per colour channel, of which Pillow kept 8."""


def inspect_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> ImageInfo:
    """Check an image file completely, by decoding it: what passes here can be read.

    Too large and too small are decided from the header, before any pixel is decoded.

    Raises:
        BadImageError: empty, no image, cut off or damaged, too large, too small, or unsupported.
    """
    decoded = _decode(data, max_pixels, min_side)
    height, width = decoded.image.height, decoded.image.width
    if decoded.orientation >= 5:
        height, width = width, height
    kind = str(decoded.image.format)
    return ImageInfo(height, width, kind, _EXTENSIONS[kind])


def read_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> np.ndarray:
    """The picture as RGB uint8 of shape (H, W, 3), upright; the module says how it is converted.

    Raises:
        BadImageError: as `inspect_image`.
    """
    decoded = _decode(data, max_pixels, min_side)
    image, orientation = decoded.image, decoded.orientation
    if image.mode in _GREY_DEEP:
        image = Image.fromarray(_stretch(np.asarray(image)))
    elif decoded.deep_colour:
        deep = _read_deep_colour(data)
        if deep is not None:
            image, orientation = deep, decoded.stored_orientation
    image = _on_white(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.array(image)


def write_jpeg(image_HWC: np.ndarray, quality: int = 92) -> bytes:
    """Encode RGB uint8 (H, W, 3) as JPEG (4:2:0 chroma); `quality` in 1 to 100.

    Raises:
        ValueError: not such an array, such a quality, or a side beyond JPEG's 65,535 pixels.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality must be in 1 to 100, got {quality}")
    if max(image_HWC.shape, default=0) > 65_535:
        raise ValueError(f"JPEG sides end at 65,535 pixels, got shape {image_HWC.shape}")
    return _write(image_HWC, "JPEG", quality=quality)


def write_png(image_HWC: np.ndarray) -> bytes:
    """Encode RGB uint8 (H, W, 3) as PNG, without loss.

    Raises:
        ValueError: not such an array.
    """
    return _write(image_HWC, "PNG")


def list_images(root: Path) -> Iterator[Path]:
    """Every file below `root` whose suffix is an image's, in any case, sorted by path.

    Nothing is opened, so broken files are listed too. Hidden files and folders are skipped, linked
    folders are not entered, linked files count only where they lead to a file inside `root`, and
    pictures that this project wrote there (`storage.outputs`) are passed over.

    Raises:
        NotADirectoryError: root is not a folder.
    """
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    return _walk(root, root.resolve())


def _walk(folder: Path, inside: Path) -> Iterator[Path]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    outputs = OutputFolder(folder)
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path, inside)
        elif (
            path.suffix.lower() in _SUFFIXES
            and entry.is_file()
            and _stays(path, inside)
            and not outputs.is_ours(entry.name)
        ):
            yield path


def _stays(path: Path, inside: Path) -> bool:
    return not path.is_symlink() or path.resolve().is_relative_to(inside)


def _decode(data: bytes, max_pixels: int, min_side: int) -> _Decoded:
    image = _open(data)
    _check_size(image, max_pixels, min_side)
    kind = _name(image)
    # Pillow keeps only the high byte of 16-bit colour; the raw mode is known until it is decoded.
    deep_colour = image.mode not in _GREY_DEEP and any(";16" in str(t.args) for t in image.tile)
    stored = _orientation(image)
    try:
        if kind == "PNG":  # Pillow stops once it has all rows, before the checksum of the pixels
            _open(data).verify()
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise BadImageError(f"too large: {e}") from e
    except Exception as e:  # damaged files make the plugins raise nearly anything
        raise BadImageError(f"the {kind} file is cut off or damaged ({e})") from e
    if image.mode not in _GREY_DEEP | _COLOUR_8BIT:
        raise BadImageError(f"{kind} with the colour mode {image.mode} is not supported")
    left = _orientation(image)
    # In PNG the tag may stand behind the pixels, in TIFF it is gone once Pillow has applied it.
    return _Decoded(image, left, stored if stored != 1 else left, deep_colour)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header only, with the plugin that recognises the first bytes."""
    if not data:
        raise BadImageError("the file is empty")
    Image.init()
    for kind in _EXTENSIONS:
        if kind == "MPO" or kind not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[kind]
        answer = accepts is None or accepts(data[:16])
        if not answer or isinstance(answer, str):  # a string says what the plugin lacks
            continue
        try:
            return factory(BytesIO(data), "")
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
            raise BadImageError(f"too large: {e}") from e
        except Exception as e:  # damaged files make the plugins raise nearly anything
            raise BadImageError(
                f"the {kind} file is cut off, damaged, or of an unsupported kind ({e})"
            ) from e
    raise BadImageError(_what_else(data))


def _what_else(data: bytes) -> str:
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
    return "not an image: the file starts like no image format that is known here"


def _check_size(image: Image.Image, max_pixels: int, min_side: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise BadImageError(
            f"too large: {width} x {height} = {width * height:,} pixels,"
            f" at most {max_pixels:,} are read"
        )
    if min(width, height) < min_side:
        raise BadImageError(f"too small: {width} x {height} pixels, each side needs {min_side}")


def _name(image: ImageFile.ImageFile) -> str:
    return "JPEG" if image.format == "MPO" else str(image.format)


def _orientation(image: Image.Image) -> int:
    """EXIF's 1 to 8; 1 where there is none or the block is damaged (the pixels may be fine)."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Pillow raises several kinds here, and viewers ignore them all
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert("RGB")


def _read_deep_colour(data: bytes) -> Image.Image | None:
    """16-bit colour, stretched to 8 bits and not turned; None where OpenCV cannot read it."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        return None
    colour_HWC = _stretch(pixels[..., :3])[..., ::-1]
    if pixels.shape[2] == 4:
        alpha_HW1 = (pixels[..., 3:] // 256).astype(np.uint8)
        colour_HWC = np.concatenate([colour_HWC, alpha_HW1], axis=2)
    return Image.fromarray(np.ascontiguousarray(colour_HWC))


def _stretch(values: np.ndarray) -> np.ndarray:
    """Map numbers of shape (H, W) or (H, W, C) to uint8, the low and high percentile to 0 and 255.

    The percentiles are those of at most about four million evenly spaced pixels. NaN becomes 0; an
    image of one value becomes black.
    """
    step = max(1, int(np.sqrt(values.size / _SAMPLES)))
    sample = values[::step, ::step].astype(np.float64).ravel()
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, _PERCENTILES) if len(sample) else (0.0, 0.0)
    if high <= low:  # nearly all pixels are alike: the few others are the content
        finite = values[np.isfinite(values)].astype(np.float64)
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    out = np.zeros(values.shape, np.uint8)
    if high <= low:
        return out
    for top in range(0, len(values), 512):  # in bands: as float64 the whole is eight times larger
        band = (values[top : top + 512].astype(np.float64) - low) * (255.0 / (high - low))
        out[top : top + 512] = np.nan_to_num(np.clip(band, 0, 255), nan=0.0).round()
    return out


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
