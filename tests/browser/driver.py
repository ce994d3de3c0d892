"""Actions of an annotator at the editor, as functions."""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np
from playwright.sync_api import Page

from engine.core import rle as rle_codec
from engine.core.rle import RLE

EDITOR = "window.dataengine.editor"
ANSWERED = f"{EDITOR}.current() && !{EDITOR}.session.isWaiting"
CURRENT = f"{EDITOR}.current() && {EDITOR}.session.newMask({EDITOR}.current())"


def find_browser() -> str | None:
    """The path of the system's Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def until(page: Page, expression: str, seconds: float = 20.0) -> None:
    """Wait until a JavaScript expression is true. (Playwright's own way to wait needs eval, which
    the page's security policy forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({expression})"):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


def open_task(page: Page, url: str) -> None:
    """Go to the annotation page and wait for a task."""
    page.goto(f"{url}/annotate")
    settled(page)


def settled(page: Page) -> None:
    """Wait until the editor is loaded and idle."""
    page.wait_for_selector('body[data-state="ready"]')


def saved(page: Page) -> None:
    """Wait until the work is saved on the server."""
    until(page, "document.getElementById('status').textContent.trim() === 'saved'")


def screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """The position of an image pixel in the window."""
    found = page.evaluate(f"{EDITOR}.toScreen({x}, {y})")
    return float(found[0]), float(found[1])


def click(page: Page, x: float, y: float, *, on_object: bool = True) -> None:
    """Click on a pixel of the image, and wait for the answer."""
    before = len(steps(page))
    page.mouse.click(*screen(page, x, y), button="left" if on_object else "right")
    until(page, f"{ANSWERED} && ({CURRENT}).trajectory.length > {before}")
    settled(page)


def drag(page: Page, *places: tuple[float, float]) -> None:
    """Press at the first pixel, move over the others, release."""
    page.mouse.move(*screen(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*screen(page, *place), steps=4)
    page.mouse.up()


def steps(page: Page) -> list[dict[str, Any]]:
    """The trajectory of the mask in progress."""
    found: dict[str, Any] | None = page.evaluate(CURRENT)
    return found["trajectory"] if found else []


def current(page: Page) -> np.ndarray:
    """The mask in progress."""
    return decoded(page.evaluate(CURRENT)["rle"])


def finished(page: Page) -> list[dict[str, Any]]:
    """The annotator's masks, as the page would submit them."""
    found: list[dict[str, Any]] = page.evaluate(f"{EDITOR}.masks()")
    return found


def decoded(rle: dict[str, Any]) -> np.ndarray:
    """A mask of the page, bool (H, W)."""
    height, width = rle["size"]
    return rle_codec.decode(RLE((height, width), rle["counts"].encode()))


def drawn(page: Page) -> np.ndarray:
    """The editor's canvas, RGBA (N, 4)."""
    found = page.evaluate(
        """(() => { const c = document.querySelector("#editor canvas");
        return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.join(); })()"""
    )
    return np.fromstring(found, int, sep=",").reshape(-1, 4)
