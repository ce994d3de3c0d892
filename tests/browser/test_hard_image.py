"""An image that the model fails on, finished by the tools that need no model: the walk of
docs/annotating.md, whose pictures are made here; and the magnifier and snapping on their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page

from engine.core.metrics import iou
from engine.simulation.annotator import CostModel
from tests.annotation.site import Site, make_site, served
from tests.browser import driver
from tests.browser.conftest import SIZE, Shot
from tests.browser.test_seeing import put_instead

pytestmark = pytest.mark.slow
FISH, STONE = (135, 130), (325, 190)
"""Middles, in image pixels."""
RADII = {FISH: (100, 55), STONE: (50, 46)}
BARS = [(x, 12) for x in range(46, 250, 38)]
"""Left side and width of the bars that the fish is behind."""


def ellipse(centre: tuple[int, int]) -> np.ndarray:
    """Filled, bool of SIZE."""
    canvas = np.zeros(SIZE, np.uint8)
    cv2.ellipse(canvas, centre, RADII[centre], 0, 0, 360, 1, -1)
    return canvas.astype(bool)


def behind_bars() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A fish behind bars and a spotted stone: the image (H, W, 3), the masks of both, bool."""
    rng = np.random.default_rng(3)
    fish, stone, bars = ellipse(FISH), ellipse(STONE), np.zeros(SIZE, bool)
    grey = np.full(SIZE, 112.0)
    grey[fish] = 168
    grey[stone] = 205
    for x, y in ((-20, -18), (-20, 18), (20, -18), (20, 18)):
        cv2.circle(grey, (STONE[0] + x, STONE[1] + y), 8, 70.0, -1)
    for left, wide in BARS:
        bars[:, left : left + wide] = True
    grey[bars] = 52
    grey = cv2.GaussianBlur(grey + rng.normal(0, 5, SIZE), (0, 0), 0.7)
    shown = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return shown, fish & ~bars, stone


@pytest.fixture
def hard(tmp_path: Path) -> Iterator[tuple[Site, str]]:
    """That image in a queue, and the page's address."""
    site = make_site(tmp_path / "ws", images=1, size=SIZE, kind="capsules")
    put_instead(site, behind_bars()[0])
    site.annotate()
    with served(site.workspace, local=True) as url:
        yield site, url


def around(centre: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Corners on an ellipse, each up to two pixels beside it, as people set them."""
    beside, radii = (2, -2, 1, -1), RADII[centre]
    angles = [2 * math.pi * (n + 0.5) / count for n in range(count)]
    return [
        (
            round(centre[0] + (radii[0] + beside[n % 4]) * math.cos(angle)),
            round(centre[1] + (radii[1] + beside[n % 4]) * math.sin(angle)),
        )
        for n, angle in enumerate(angles)
    ]


def corner(page: Page, place: tuple[int, int]) -> None:
    """Click between pixels."""
    page.mouse.click(*driver.screen(page, place[0] - 0.5, place[1] - 0.5))


def seconds(mask: dict[str, Any]) -> float:
    """What a person would need for this mask by the model of people's time."""
    kinds = [event["kind"] for event in mask["trajectory"]]
    corners = sum(len(e["path"]) for e in mask["trajectory"] if e["kind"] == "outline")
    strokes = sum(kind in ("regions", "brush", "erase") for kind in kinds)
    operations = sum(kind in ("fill_holes", "smooth", "cut_out", "remove_specks") for kind in kinds)
    clicks = kinds.count("click") + kinds.count("undo") + corners + operations
    return CostModel().seconds_for(clicks, strokes)


def test_what_the_model_fails_on_is_finished_with_other_tools(
    hard: tuple[Site, str], page: Page, shot: Shot
) -> None:
    _, fish, stone = behind_bars()
    driver.open_task(page, hard[1])
    driver.click(page, FISH[0] + 20, FISH[1])
    failed = iou(driver.current(page), fish)
    shot(page, "hard-model")
    page.keyboard.press("Escape")

    page.keyboard.press("d")  # the bars: one outline each, as one mask
    for left, wide in BARS:
        for place in ((left, 0), (left + wide, 0), (left + wide, 300), (left, 300)):
            corner(page, place)
        page.keyboard.press("Enter")
    page.keyboard.press("n")

    page.keyboard.press("Shift+E")  # the fish: an outline over the bars that follows its edge
    page.keyboard.press("Shift+L")
    corners = around(FISH, 18)
    for n, place in enumerate(corners):
        corner(page, place)
        if n == 12:
            page.mouse.move(*driver.screen(page, *corners[n + 1]))
            page.wait_for_timeout(150)
            shot(page, "hard-snapping")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+X")  # without the bars
    outlined = iou(driver.current(page), fish)
    shot(page, "hard-cut-out")
    page.keyboard.press("n")

    page.keyboard.press("w")  # the stone: regions around its spots
    driver.until(page, "document.getElementById('canvas').dataset.regions === 'there'")
    ring = [(42 * math.cos(n * math.pi / 12), 38 * math.sin(n * math.pi / 12)) for n in range(25)]
    across = (
        [(42 - 14 * n, 0) for n in range(7)] + ring[12:19] + [(0, 13 * n - 38) for n in range(7)]
    )
    driver.drag(page, *[(STONE[0] + x, STONE[1] + y) for x, y in ring + across])
    shot(page, "hard-wand")
    page.keyboard.press("Shift+F")
    page.keyboard.press("Shift+S")
    with_regions = iou(driver.current(page), stone)
    page.keyboard.press("n")
    page.keyboard.press("v")
    page.mouse.move(5, 5)
    page.wait_for_timeout(100)
    shot(page, "hard-finished")

    assert outlined > max(0.92, failed + 0.2)
    assert with_regions > 0.85
    masks = driver.finished(page)
    assert [event["kind"] for event in masks[2]["trajectory"]] == [
        "regions",
        "fill_holes",
        "smooth",
    ]
    assert all(seconds(mask) <= 30 for mask in masks)


def test_corners_snap_to_edges_unless_ctrl_is_held(hard: tuple[Site, str], page: Page) -> None:
    driver.open_task(page, hard[1])
    page.keyboard.press("d")
    page.keyboard.press("Shift+E")
    places = around(STONE, 8)

    def away(path: list[list[float]]) -> list[float]:
        """Pixels beside the stone's edge, of each corner."""
        return [
            abs(math.hypot((x - STONE[0] - 0.5) / 50.5, (y - STONE[1] - 0.5) / 46.5) - 1) * 48
            for x, y in path
        ]

    def outline(*, is_held: bool) -> list[list[float]]:
        if is_held:
            page.keyboard.down("Control")
        for place in places:
            corner(page, place)
        page.keyboard.up("Control")
        page.keyboard.press("Enter")
        path: list[list[float]] = driver.steps(page)[-1]["path"]
        return path

    snapped = outline(is_held=False)
    assert max(away(snapped)) < 1.3
    page.keyboard.press("Control+z")
    held = outline(is_held=True)
    assert held == [list(place) for place in places]
    assert max(away(held)) > max(away(snapped)) + 0.5


def test_the_magnifier_shows_what_is_under_the_pointer_larger(
    hard: tuple[Site, str], page: Page
) -> None:
    driver.open_task(page, hard[1])
    page.keyboard.press("d")
    x, y = driver.screen(page, FISH[0], FISH[1])
    page.mouse.move(x, y)
    page.wait_for_timeout(100)
    before = driver.drawn(page)
    page.keyboard.press("Shift+L")
    page.wait_for_timeout(200)
    changed = np.abs(driver.drawn(page) - before).max(axis=1) > 8
    assert 8_000 < np.count_nonzero(changed) < 168 * 168  # a round part of the canvas
    page.keyboard.press("v")  # only while something is drawn, or a click is dragged
    page.wait_for_timeout(200)
    page.keyboard.press("p")
    page.mouse.move(x + 1, y)
    page.wait_for_timeout(200)
    calm = driver.drawn(page)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40, steps=3)
    page.wait_for_timeout(200)
    assert np.count_nonzero(np.abs(driver.drawn(page) - calm).max(axis=1) > 8) > 8_000
    page.keyboard.press("Escape")
    page.mouse.up()
    page.wait_for_timeout(200)
    assert driver.steps(page) == []
