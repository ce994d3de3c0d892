"""Image files that every reader shows as this project does."""

from __future__ import annotations

import contextlib
import io

from PIL import Image, UnidentifiedImageError

from storage.formats.images import read_image, write_png

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_ORIENTATION = 0x0112


def portable_image(data: bytes, *, max_pixels: int) -> tuple[bytes, str]:
    """The file unchanged, if it is a JPEG, PNG or WebP of 8-bit grey or RGB that is stored upright;
    else its pixels as PNG. Returns the bytes and the suffix.

    Raises:
        BadImageError: not a readable image.
    """
    # Pillow cannot read all formats; `read_image` knows more, or says what is wrong.
    unreadable = (UnidentifiedImageError, OSError, ValueError, SyntaxError)
    with contextlib.suppress(*unreadable, Image.DecompressionBombError):
        with Image.open(io.BytesIO(data)) as image:
            upright = image.getexif().get(_ORIENTATION, 1) == 1
            suffix = _SUFFIXES.get(str(image.format))
            if (
                suffix
                and upright
                and image.mode in ("L", "RGB")
                and "transparency" not in image.info
            ):
                return data, suffix
    return write_png(read_image(data, max_pixels=max_pixels)), ".png"
