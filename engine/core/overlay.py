"""Pictures of an image with its masks drawn over it.

Masks are RLE of the image's size; pictures are RGB uint8 (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.core.rle import RLE, area, decode

# Okabe and Ito's palette without black and grey (https://jfly.uni-koeln.de/color/), RGB,
# ordered so that neighbours differ in hue and in lightness.
_PALETTE = np.array(
    [
        (0, 114, 178),
        (230, 159, 0),
        (0, 158, 115),
        (204, 121, 167),
        (213, 94, 0),
        (86, 180, 233),
        (240, 228, 66),
    ],
    np.float32,
)
_LARGEST_SHIFT = 0.9


def mask_color(index: int) -> tuple[int, int, int]:
    """Return the RGB colour, 0 to 255 per channel, of the mask at `index` in its list.

    The first seven colours are Okabe and Ito's; every further seven are the same colours mixed with
    white or black by a new share.

    Raises:
        ValueError: index is negative.
    """
    if index < 0:
        raise ValueError(f"index must not be negative, got {index}")
    cycle, hue = divmod(index, len(_PALETTE))
    # cycle 0 is unmixed; later cycles follow the base-2 van der Corput sequence
    share, digit, rest = 0.0, 0.5, (cycle + 1) // 2
    while rest:
        share, digit, rest = share + digit * (rest & 1), digit / 2, rest >> 1
    target = 255.0 if cycle % 2 else 0.0
    red, green, blue = _PALETTE[hue] + _LARGEST_SHIFT * share * (target - _PALETTE[hue])
    return round(float(red)), round(float(green)), round(float(blue))


def draw_masks(
    image_HWC: np.ndarray, masks: Sequence[RLE], *, max_side: int = 640, alpha: float = 0.45
) -> np.ndarray:
    """Draw every mask over the image, filled and outlined in its own colour, the largest first.

    Args:
        image_HWC: RGB uint8 (H, W, 3); not changed.
        masks: masks of the image's size; empty masks are skipped. A mask's index in this list
            determines its colour (`mask_color`).
        max_side: the result's longer side in pixels is at most this; images are never enlarged.
        alpha: opacity of the filling, [0, 1].

    Returns:
        RGB uint8 (h, w, 3), a new array.

    Raises:
        ValueError: the array is not such an image, a mask has another size, or max_side or alpha
            is out of range.
    """
    _check(image_HWC, masks, max_side, alpha)
    picture = shrink(image_HWC, max_side)
    canvas = picture.astype(np.float32)
    areas = [area(rle) for rle in masks]
    order = [i for i in np.argsort(areas, kind="stable")[::-1].tolist() if areas[i]]
    outlines = []
    for index in order:
        cover = _coverage(decode(masks[index]), (picture.shape[0], picture.shape[1]))
        x, y, w, h = cv2.boundingRect((cover > 0).view(np.uint8))
        box = (slice(y, y + h), slice(x, x + w))
        share = alpha * cover[box][:, :, None]
        canvas[box] += share * (np.array(mask_color(index), np.float32) - canvas[box])
        # a mask narrower than half a pixel has no pixel above 0.5
        inside = cover[box] >= min(0.5, float(cover.max()))
        outlines.append((index, _contours(inside, x, y)))
    drawn = np.ascontiguousarray(np.rint(canvas).astype(np.uint8))
    thickness = max(1, round(max(drawn.shape) / 480))
    for index, contours in outlines:
        cv2.polylines(drawn, contours, True, mask_color(index), thickness, cv2.LINE_AA)
    return drawn


def shrink(image_HWC: np.ndarray, max_side: int) -> np.ndarray:
    """Return the image (H, W, 3) shrunk to a longer side of at most `max_side` pixels, or a copy
    if it is no larger."""
    height, width = image_HWC.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image_HWC.copy()
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA))


def _check(image_HWC: np.ndarray, masks: Sequence[RLE], max_side: int, alpha: float) -> None:
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
        raise ValueError(f"expected RGB uint8 (H, W, 3), got {image_HWC.dtype} {image_HWC.shape}")
    if 0 in image_HWC.shape:
        raise ValueError(f"expected an image with at least one pixel, got shape {image_HWC.shape}")
    if max_side < 1:
        raise ValueError(f"max_side must be at least 1 pixel, got {max_side}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    for number, rle in enumerate(masks):
        if tuple(rle.size) != image_HWC.shape[:2]:
            raise ValueError(
                f"mask {number} has size {rle.size}, but its image has {image_HWC.shape[:2]}"
            )


def _coverage(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the share of each pixel of the (h, w) picture that the mask covers, float32."""
    full = mask_HW.astype(np.float32)
    if mask_HW.shape == size:
        return full
    return np.asarray(cv2.resize(full, (size[1], size[0]), interpolation=cv2.INTER_AREA))


def _contours(inside_HW: np.ndarray, x: int, y: int) -> list[np.ndarray]:
    """Return the outlines, including those of holes, of a window whose first pixel is (x, y)."""
    padded = np.pad(inside_HW.astype(np.uint8), 1)
    found, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    offset = np.array([x - 1, y - 1])
    return [contour + offset for contour in found]
