"""The visual rationale of a run: the picture after each step, as HTML that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import cv2
import numpy as np

from engine.core.overlay import shrink
from engine.programs.expression import as_text
from engine.programs.interpreter import Done
from engine.programs.pictures import tagged
from engine.programs.values import Objects, Picture, Value

MAX_SIDE = 360
"""Of a picture, in pixels."""
STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0 1rem;"
    "color:#1c2330;background:#fff}h2{margin:2rem 0 .4rem;font-size:1.1rem;overflow-wrap:anywhere}"
    "ol{list-style:none;padding:0;display:grid;gap:.8rem;"
    "grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr))}"
    "li{border:1px solid #d6dae1;border-radius:8px;padding:.7rem .9rem}"
    "code{font:13px/1.4 ui-monospace,monospace;"
    "overflow-wrap:anywhere}img{display:block;margin-top:.5rem;max-width:100%;border-radius:4px}"
    ".value{color:#4a5568}.error{color:#a61b1b}"
    "@media(prefers-color-scheme:dark){body{color:#e6e9ef;background:#151920}"
    "li{border-color:#39414e}.value{color:#a8b1c0}.error{color:#ff9c9c}}"
)


def section(
    title: str, images: Mapping[str, Picture], done: Sequence[Done], error: str = ""
) -> str:
    """Return the part of a page about one image or pair.

    Args:
        title: such as the image's file name.
        images: the inputs.
        done: the finished steps.
        error: why the run ended before its last step, if it did.
    """
    parts = [f"<section><h2>{escape(title)}</h2><ol>"]
    for slot, image in images.items():
        shown = _picture(image.pixels_HWC, slot)
        parts.append(f"<li><code>{slot}</code><div>{escape(described(image))}</div>{shown}</li>")
    for one in done:
        parts.append(
            f"<li><code>{escape(one.step.text)}</code>"
            f'<div class="value">{escape(described(one.value))}</div>'
            f"{_seen(one, images)}</li>"
        )
    if error:
        parts.append(f'<li class="error">{escape(error)}</li>')
    return "".join([*parts, "</ol></section>"])


def page(title: str, program: str, sections: Sequence[str]) -> str:
    """Return a complete page.

    Args:
        title: of the run.
        program: as written.
        sections: of `section`.
    """
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    )
    body = f"<h1>{escape(title)}</h1><pre><code>{escape(program)}</code></pre>"
    return f"{head}<body>{body}{''.join(sections)}</body></html>"


def described(value: Value) -> str:
    """Return a value in words."""
    if isinstance(value, Picture):
        height, width = value.pixels_HWC.shape[:2]
        return f"picture, {width} × {height} pixels" if not value.is_empty else "empty picture"
    if isinstance(value, Objects):
        names = sorted({thing.shown or "no name" for thing in value.things})
        told = f": {', '.join(names[:8])}" if value.things else ""
        count = len(value.things)
        return f"{count} object{'' if count == 1 else 's'}{told}"
    if isinstance(value, tuple):
        return ", ".join(value)
    return as_text(value)


def _seen(one: Done, images: Mapping[str, Picture]) -> str:
    """The picture of a step: an image as it is, objects on their input."""
    if isinstance(one.value, Picture):
        if one.value.is_empty or one.step.module == "Result":
            return ""
        return _picture(one.value.pixels_HWC, one.step.target)
    if isinstance(one.value, Objects) and one.value.things and one.step.module != "Result":
        whole = images.get(one.value.slot)
        if whole is not None and not whole.is_empty:
            return _picture(_marked(whole, one.value), one.step.target)
    return ""


def _marked(whole: Picture, objects: Objects) -> np.ndarray:
    """The image, small, with boxes around objects."""
    small = shrink(whole.pixels_HWC, MAX_SIDE)
    scale = small.shape[1] / whole.pixels_HWC.shape[1]
    things = [
        replace(thing, rle=None, box_xyxy=tuple(round(v * scale) for v in thing.box_xyxy))
        for thing in objects.things
    ]
    return tagged(Picture.whole(small, whole.slot), things)


def _picture(pixels_HWC: np.ndarray, name: str) -> str:
    if 0 in pixels_HWC.shape:
        return ""
    small = shrink(pixels_HWC, MAX_SIDE)
    _, coded = cv2.imencode(
        ".jpg", np.ascontiguousarray(small[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    data = base64.b64encode(coded.tobytes()).decode()
    return f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{data}">'
