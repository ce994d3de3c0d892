"""Use of the editor: the meaning of clicks, touch input, small windows."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from engine.core.clicks import center_point
from engine.core.records import Source, Stage
from tests.annotation.site import Site
from tests.browser import driver
from tests.browser.conftest import SIZE, Shot

pytestmark = pytest.mark.slow


def test_a_click_well_off_the_selected_mask_begins_a_new_one(
    site: Site, url: str, page: Page
) -> None:
    site.complete()
    driver.open_task(page, url)
    editor, current = driver.EDITOR, f"{driver.EDITOR}.current()"
    given = site.mask_rows(0, "complete", Source.PREFILL, Stage.SEMI_AUTOMATIC)
    chosen = given[0]
    x0, y0, x1, y1 = chosen.box_xyxy
    right, down = x0 + x1 < SIZE[1], y0 + y1 < SIZE[0]
    x, y = (SIZE[1] - 8 if right else 7), (SIZE[0] - 8 if down else 7)

    def does(act: Callable[[], None]) -> Any:
        """The mask that a click counts as a correction of."""
        page.evaluate(f"{editor}.select({json.dumps(chosen.mask_id)})")
        act()
        driver.until(page, current)
        found = page.evaluate(f"{current}.replaces")
        page.keyboard.press("Escape")
        return found

    def paint(*places: tuple[float, float]) -> None:
        page.keyboard.press("b")
        driver.drag(page, *places)
        page.keyboard.press("v")

    def mouse(x: float, y: float, button: str = "left") -> None:
        page.mouse.click(*driver.screen(page, x, y), button=button)  # type: ignore[arg-type]

    assert does(lambda: mouse(*center_point(site.masks_of(0)[0]))) == chosen.mask_id
    assert does(lambda: mouse(x, y, "right")) == chosen.mask_id  # a negative click, so of this mask
    assert does(lambda: driver.drag(page, (x0, y0), (x1, y1))) == chosen.mask_id
    assert does(lambda: paint((x1 - 2, y1 - 2), (x1 + 2, y1 - 2))) == chosen.mask_id
    assert does(lambda: mouse(x, y)) is None
    assert does(lambda: driver.drag(page, (x, y), (x - 30, y - 30))) is None
    assert does(lambda: paint((x, y), (x - 3, y))) is None


def test_fingers_click_zoom_and_move(site: Site, url: str, chromium: Browser) -> None:
    site.annotate()
    context = chromium.new_context(viewport={"width": 1024, "height": 700}, has_touch=True)
    page = context.new_page()
    screen = context.new_cdp_session(page)
    driver.open_task(page, url)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def labels() -> list[Any]:
        return [step.get("label") for step in driver.steps(page)]

    first, second = site.masks_of(0)[:2]
    touch("touchStart", driver.screen(page, *center_point(first)))
    touch("touchEnd")
    driver.until(page, driver.ANSWERED)
    touch("touchStart", driver.screen(page, *center_point(second)))
    driver.until(page, f"{driver.CURRENT}.trajectory.length === 2")  # held: no release is needed
    touch("touchEnd")
    assert labels() == [1, 0]

    page.keyboard.press("b")  # two fingers are not a stroke
    scale, before = page.evaluate(f"{driver.EDITOR}.viewport.scale"), driver.screen(page, 200, 150)
    touch("touchStart", (400, 300))
    touch("touchMove", (410, 300))
    touch("touchStart", (410, 300), (600, 300))
    touch("touchMove", (400, 340), (780, 340))
    touch("touchEnd")
    assert page.evaluate(f"{driver.EDITOR}.viewport.scale") > 1.9 * scale
    assert driver.screen(page, 200, 150) != before
    page.keyboard.press("v")
    page.locator("[data-action=takeAway]").tap()
    touch("touchStart", (500, 400))
    touch("touchEnd")
    driver.until(page, f"{driver.CURRENT}.trajectory.length === 3")
    assert labels() == [1, 0, 0]
    context.close()


def test_tools_fit_a_low_window_in_the_colours_that_the_system_asks_for(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    driver.open_task(page, url)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    for width, height in ((1280, 620), (853, 480), (640, 400)):  # the last two: 150 and 200 %
        page.set_viewport_size({"width": width, "height": height})
        tools = page.locator(".rail-button:visible")
        assert tools.count() == 17
        for box in tools.evaluate_all("all => all.map((e) => e.getBoundingClientRect().bottom)"):
            assert box <= height
        shot(page, f"annotate-low-{height}")
    colours = page.evaluate("import('/static/js/editor/colours.js').then((all) => ({...all}))")
    present = colorsys.rgb_to_hsv(*colours["CURRENT_COLOUR"])[0]
    for colour in (*colours["OWN_COLOURS"], *colours["PREFILLED_COLOURS"]):
        apart = abs(colorsys.rgb_to_hsv(*colour)[0] - present)
        assert min(apart, 1 - apart) > 30 / 360, f"{colour} looks like the mask in progress"
