"""Edits of pictures: names, colour, blur, emojis. Pictures are RGB uint8 (H, W, 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.core.overlay import mask_color
from engine.core.rle import RLE, decode
from engine.programs.values import Picture, Thing

_EMOJI_SIDE = 128
_YELLOW, _DARK, _RED, _WHITE = (255, 205, 70), (70, 45, 20), (225, 50, 70), (250, 250, 250)


def cover_of(picture: Picture, things: Sequence[Thing]) -> np.ndarray:
    """Return which pixels of a picture belong to objects, bool (H, W)."""
    from pycocotools import mask as coco_mask

    height, width = picture.pixels_HWC.shape[:2]
    (left, top), found = picture.origin_xy, np.zeros((height, width), bool)
    coded = [thing.rle.as_coco() for thing in things if thing.rle is not None]
    if coded:
        size, counts = coco_mask.merge(coded).values()
        whole = decode(RLE((int(size[0]), int(size[1])), bytes(counts)))
        found |= whole[top : top + height, left : left + width]
    for thing in things:
        if thing.rle is None:
            x0, y0, x1, y1 = thing.box_xyxy
            found[max(y0 - top, 0) : max(y1 - top, 0), max(x0 - left, 0) : max(x1 - left, 0)] = True
    return found


def tagged(picture: Picture, things: Sequence[Thing]) -> np.ndarray:
    """Return the picture with a box around each object, and its name."""
    drawn = Image.fromarray(np.ascontiguousarray(picture.pixels_HWC))
    pen, (left, top) = ImageDraw.Draw(drawn), picture.origin_xy
    side = max(drawn.size)
    thickness, size = max(1, round(side / 320)), max(9, round(side / 40))
    font = ImageFont.load_default(size)
    for index, thing in enumerate(things):
        color = mask_color(index)
        x0, y0, x1, y1 = thing.box_xyxy
        x0, y0, x1, y1 = x0 - left, y0 - top, x1 - left, y1 - top
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=color, width=thickness)
        if thing.shown:
            place = (max(x0, 0) + thickness, max(y0, 0) + thickness)
            pen.rectangle(pen.textbbox(place, thing.shown, font=font), fill=color)
            light = sum(color) < 380
            pen.text(place, thing.shown, font=font, fill=_WHITE if light else (0, 0, 0))
    return np.asarray(drawn)


def colour_popped(picture: Picture, things: Sequence[Thing]) -> np.ndarray:
    """Return the picture in grey but for the objects."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture.pixels_HWC), cv2.COLOR_RGB2GRAY)
    found = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    inside = cover_of(picture, things)
    found[inside] = picture.pixels_HWC[inside]
    return found


def background_blurred(picture: Picture, things: Sequence[Thing]) -> np.ndarray:
    """Return the picture blurred but for the objects."""
    pixels = np.ascontiguousarray(picture.pixels_HWC)
    sigma = max(1.0, max(pixels.shape[:2]) / 80)
    found = np.array(cv2.GaussianBlur(pixels, (0, 0), sigma))
    inside = cover_of(picture, things)
    found[inside] = pixels[inside]
    return found


def with_emojis(picture: Picture, things: Sequence[Thing], name: str) -> np.ndarray:
    """Return the picture with an emoji of EMOJIS over each object."""
    colour_SSC, alpha_SS = _emoji(name)
    found, (left, top) = picture.pixels_HWC.copy(), picture.origin_xy
    height, width = found.shape[:2]
    for thing in things:
        x0, y0, x1, y1 = thing.box_xyxy
        side = max(x1 - x0, y1 - y0)
        (x, y) = thing.center_xy
        first_x, first_y = round(x - side / 2) - left, round(y - side / 2) - top
        if side < 1:
            continue
        columns = np.arange(max(first_x, 0), min(first_x + side, width))
        rows = np.arange(max(first_y, 0), min(first_y + side, height))
        place = np.ix_(
            (rows - first_y) * _EMOJI_SIDE // side, (columns - first_x) * _EMOJI_SIDE // side
        )
        where = np.ix_(rows, columns)
        alpha = alpha_SS[place][:, :, None]
        mixed = found[where] * (1 - alpha) + colour_SSC[place] * alpha
        found[where] = np.rint(mixed).astype(np.uint8)
    return found


def _emoji(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return colours, uint8 (S, S, 3), and opacity, float (S, S)."""
    canvas = np.zeros((_EMOJI_SIDE, _EMOJI_SIDE, 3), np.uint8)
    EMOJIS[name](canvas)
    alpha = np.asarray(canvas.any(axis=2), np.float32)
    return canvas, np.asarray(cv2.GaussianBlur(alpha, (0, 0), 0.8))


def _face(canvas: np.ndarray, mouth: str = "smile", eyes: str = "open") -> None:
    cv2.circle(canvas, (64, 64), 62, _YELLOW, -1, cv2.LINE_AA)
    for x in (42, 86):
        if eyes == "cool":
            cv2.ellipse(canvas, (x, 50), (22, 14), 0, 0, 360, _DARK, -1, cv2.LINE_AA)
        elif eyes == "wink" and x == 86:
            cv2.line(canvas, (x - 10, 50), (x + 10, 50), _DARK, 6, cv2.LINE_AA)
        else:
            cv2.ellipse(canvas, (x, 50), (8, 12), 0, 0, 360, _DARK, -1, cv2.LINE_AA)
    if eyes == "cool":
        cv2.line(canvas, (42, 44), (86, 44), _DARK, 8, cv2.LINE_AA)
    if mouth == "smile":
        cv2.ellipse(canvas, (64, 74), (34, 28), 0, 15, 165, _DARK, 7, cv2.LINE_AA)
    elif mouth == "sad":
        cv2.ellipse(canvas, (64, 108), (30, 24), 0, 205, 335, _DARK, 7, cv2.LINE_AA)
    else:
        cv2.ellipse(canvas, (64, 92), (14, 18), 0, 0, 360, _DARK, -1, cv2.LINE_AA)


def _heart(canvas: np.ndarray) -> None:
    for x in (38, 90):
        cv2.circle(canvas, (x, 44), 32, _RED, -1, cv2.LINE_AA)
    cv2.fillPoly(canvas, [np.array([(10, 60), (118, 60), (64, 122)])], _RED, cv2.LINE_AA)


def _star(canvas: np.ndarray) -> None:
    turns = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 26, 62)
    points = 64 + np.stack([np.cos(turns) * radii, np.sin(turns) * radii], axis=1)
    cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], _YELLOW, cv2.LINE_AA)


EMOJIS: dict[str, Callable[[np.ndarray], None]] = {
    "smile": _face,
    "sad": lambda canvas: _face(canvas, mouth="sad"),
    "wink": lambda canvas: _face(canvas, eyes="wink"),
    "surprised": lambda canvas: _face(canvas, mouth="open"),
    "cool": lambda canvas: _face(canvas, eyes="cool"),
    "heart": _heart,
    "star": _star,
}
"""Drawn emojis by name."""
