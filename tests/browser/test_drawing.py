"""The editor's drawing tools: outlines, scribbles, moved clicks, operations on whole masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, Route

from engine.core.clicks import center_point
from tests.annotation.site import Site
from tests.browser import driver
from tests.browser.conftest import SIZE, Shot

pytestmark = pytest.mark.slow


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def corner(page: Page, x: float, y: float, *, shift: bool = False) -> None:
    """Click on the corner of a pixel."""
    left, top = driver.screen(page, x - 0.5, y - 0.5)
    if shift:
        page.keyboard.down("Shift")
    page.mouse.click(left, top)
    if shift:
        page.keyboard.up("Shift")


def polygon(page: Page, *corners: tuple[int, int], shift: bool = False) -> None:
    for x, y in (*corners, corners[0]):
        corner(page, x, y, shift=shift)


def rectangle(page: Page, x0: int, y0: int, x1: int, y1: int, *, shift: bool = False) -> None:
    polygon(page, (x0, y0), (x1, y0), (x1, y1), (x0, y1), shift=shift)


def kinds(mask: dict[str, Any]) -> list[str]:
    return [event["kind"] for event in mask["trajectory"]]


def toasts(page: Page) -> str:
    return " ".join(page.locator(".toast").all_inner_texts())


def test_polygons_and_lassos_add_and_remove_and_are_stored(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    driver.open_task(page, url)
    page.keyboard.press("d")
    corner(page, 100, 80)  # nothing to remove from yet is said, and begins nothing
    page.keyboard.press("Escape")
    corner(page, 100, 80, shift=True)
    assert "nothing to remove from" in toasts(page)
    for place in ((100, 80), (180, 80), (30, 30)):
        corner(page, *place)
    page.keyboard.press("Control+z")  # takes back the last corner
    corner(page, 180, 150)
    corner(page, 100, 150)
    shot(page, "draw-polygon")
    page.keyboard.press("Enter")  # closes it
    assert (driver.current(page) == box_mask(100, 80, 180, 150)).all()
    rectangle(page, 120, 90, 140, 110, shift=True)
    expected = box_mask(100, 80, 180, 150) & ~box_mask(120, 90, 140, 110)
    assert (driver.current(page) == expected).all()

    driver.drag(page, (170, 140), (200, 140), (200, 170), (170, 170), (170, 145))  # a lasso
    grown = driver.current(page)
    assert grown[150:168, 182:198].all()
    assert (grown | expected == grown).all()
    page.keyboard.press("Control+z")
    assert (driver.current(page) == expected).all()
    page.keyboard.press("Enter")
    (mask,) = driver.finished(page)
    assert kinds(mask) == ["outline", "outline", "outline", "undo"]
    assert [event.get("label") for event in mask["trajectory"]] == [1, 0, 1, None]
    assert mask["trajectory"][0]["path"] == [[100, 80], [180, 80], [180, 150], [100, 150]]
    driver.saved(page)
    page.reload()  # the draft has it
    driver.settled(page)
    assert (driver.decoded(driver.finished(page)[0]["rle"]) == expected).all()

    page.keyboard.press("d")
    corner(page, 10, 10)
    corner(page, 30, 10)
    corner(page, 30, 30)
    page.keyboard.press("Control+Enter")  # what is open is closed, and submitted
    driver.until(page, "document.getElementById('file-name').textContent === '1.png'")
    (task,) = site.workspace.queue.submitted("annotate")
    assert (task.result.made, task.result.clicks, task.result.strokes) == (2, 0, 4)


def test_clicks_can_be_moved_and_removed_and_a_scribble_is_several(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    driver.open_task(page, url)
    x, y = center_point(site.masks_of(0)[0])
    driver.click(page, x, y)
    first = driver.current(page)
    points = f"{driver.EDITOR}.current().points"
    away = (SIZE[1] - 12, 12)
    driver.click(page, *away, on_object=False)
    assert len(page.evaluate(points)) == 2
    driver.drag(page, away, (12, SIZE[0] - 12))
    driver.until(page, f"{driver.ANSWERED} && {points}[1].x === 12")
    assert [step["kind"] for step in driver.steps(page)] == ["click", "click", "move"]
    assert driver.steps(page)[2]["path"] == [list(away), [12, SIZE[0] - 12]]
    page.mouse.click(*driver.screen(page, 12, SIZE[0] - 12))
    driver.until(page, f"{driver.ANSWERED} && {points}.length === 1")
    assert (driver.current(page) == first).all()  # as if the click had never been made
    page.keyboard.press("Control+z")
    driver.until(page, f"{driver.ANSWERED} && {points}.length === 2")
    page.keyboard.press("Escape")

    page.keyboard.press("q")
    page.mouse.move(*driver.screen(page, x - 14, y))
    page.mouse.down()
    page.mouse.move(*driver.screen(page, x + 14, y), steps=6)
    shot(page, "draw-scribble")
    page.mouse.up()
    driver.until(page, driver.ANSWERED)
    found = page.evaluate(points)
    assert len(found) >= 2
    assert {point["label"] for point in found} == {1}
    assert all(point["y"] == y and x - 14 <= point["x"] <= x + 14 for point in found)
    assert [step["kind"] for step in driver.steps(page)] == ["scribble"]
    page.keyboard.press("Control+z")  # one step
    assert driver.steps(page) == []


def test_operations_on_whole_masks(site: Site, url: str, page: Page, shot: Shot) -> None:
    site.annotate()
    driver.open_task(page, url)
    page.keyboard.press("Shift+F")
    assert "Select a mask first" in toasts(page)

    page.keyboard.press("d")
    rectangle(page, 100, 80, 180, 150)
    rectangle(page, 120, 90, 140, 110, shift=True)
    rectangle(page, 300, 20, 308, 28)
    ring = box_mask(100, 80, 180, 150) & ~box_mask(120, 90, 140, 110)
    speck = box_mask(300, 20, 308, 28)
    assert (driver.current(page) == ring | speck).all()
    page.keyboard.press("m")
    slider = page.get_by_label("Specks below")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    driver.until(page, f"{driver.EDITOR}.operations.ghost?.area === 64")
    shot(page, "draw-operations")
    page.locator(".editor-panel [data-action=removeSpecks]").click()
    assert (driver.current(page) == ring).all()
    page.keyboard.press("Shift+F")
    assert (driver.current(page) == box_mask(100, 80, 180, 150)).all()
    page.keyboard.press("Shift+F")
    assert "has no holes" in toasts(page)
    page.keyboard.press("Shift+S")
    smooth = driver.current(page)
    assert not smooth[80, 100]
    assert smooth[115, 100:180].all()
    assert smooth.sum() > 5500
    for expected in (box_mask(100, 80, 180, 150), ring, ring | speck):
        page.keyboard.press("Control+z")
        assert (driver.current(page) == expected).all()
    page.keyboard.press("Enter")

    rectangle(page, 150, 60, 260, 120)
    page.keyboard.press("Shift+X")
    assert (driver.current(page) == box_mask(150, 60, 260, 120) & ~ring).all()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{driver.EDITOR}.row.title") == "Mask 1"
    page.keyboard.press("Shift+D")  # the ring and the speck become two masks
    masks = [driver.decoded(mask["rle"]) for mask in driver.finished(page)]
    assert [int(mask.sum()) for mask in masks] == [ring.sum(), masks[1].sum(), 64]
    page.keyboard.press("j")
    page.mouse.click(*driver.screen(page, 304, 24))
    page.mouse.click(*driver.screen(page, 250, 100))
    (merged,) = driver.finished(page)
    assert (driver.decoded(merged["rle"]) == box_mask(150, 60, 260, 120) | ring | speck).all()
    assert kinds(merged)[-3:] == ["split", "merge", "merge"]
    page.mouse.click(*driver.screen(page, 50, 250))
    assert "no other mask here" in toasts(page)
    page.keyboard.press("Control+c")
    page.keyboard.press("Control+Enter")
    driver.until(page, "document.getElementById('file-name').textContent === '1.png'")
    driver.settled(page)
    page.keyboard.press("Control+v")
    driver.until(page, f"{driver.EDITOR}.masks().length === 1")
    (pasted,) = driver.finished(page)
    assert (pasted["rle"], kinds(pasted)) == (merged["rle"], ["paste"])


def test_copy_and_paste_before_the_models_answer_wait_for_it(
    site: Site, url: str, page: Page
) -> None:
    site.annotate()
    driver.open_task(page, url)
    page.keyboard.press("p")  # no preview
    held: list[Route] = []
    page.route("**/predict", lambda route: held.append(route))
    page.mouse.click(*driver.screen(page, *center_point(site.masks_of(0)[0])))
    for key in ("Control+c", "Control+v", "Control+v"):
        page.keyboard.press(key)
    driver.until(page, f"{driver.EDITOR}.prompts.soon.length === 3")
    while not held:
        page.wait_for_timeout(20)
    held[0].continue_()
    driver.until(page, f"{driver.EDITOR}.masks().length === 3")
    first, *others = driver.finished(page)
    assert [mask["rle"] for mask in others] == [first["rle"]] * 2
    assert [kinds(mask) for mask in (first, *others)] == [["click"], ["paste"], ["paste"]]


def test_a_merge_with_a_prefilled_mask_replaces_it_and_further_ones_are_rejected(
    site: Site, url: str, page: Page
) -> None:
    site.complete()
    driver.open_task(page, url)
    given = [center_point(mask) for mask in site.masks_of(0)[:2]]
    ids = page.evaluate(f"{driver.EDITOR}.session.prefilled.map((mask) => mask.id)")
    page.mouse.dblclick(*driver.screen(page, *given[0]))
    page.keyboard.press("j")
    page.mouse.click(*driver.screen(page, *given[1]))
    (mask,) = driver.finished(page)
    assert mask["replaces"] == ids[0]
    assert page.evaluate(f"{driver.EDITOR}.submission().rejected") == [ids[1]]
    union = site.masks_of(0)[0] | site.masks_of(0)[1]
    assert (driver.decoded(mask["rle"]) == union).all()
    page.keyboard.press("Control+z")
    assert driver.finished(page) == []
    assert page.evaluate(f"{driver.EDITOR}.submission().rejected") == []


def test_the_wand_selects_regions_of_like_pixels(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    driver.open_task(page, url)
    truth = site.masks_of(0)[0]
    page.keyboard.press("w")
    ready = "document.getElementById('canvas').dataset.regions === 'there'"
    driver.until(page, ready)
    x, y = center_point(truth)
    page.mouse.move(*driver.screen(page, x, y))
    page.wait_for_timeout(100)
    shot(page, "draw-wand")
    page.mouse.click(*driver.screen(page, x, y))
    one = driver.current(page)
    assert one[y, x]
    assert 20 < one.sum() < 2_000
    driver.drag(page, (x, y), (x + 40, y))
    several = driver.current(page)
    assert several[y, x : x + 40].all()
    page.keyboard.down("Shift")
    page.mouse.click(*driver.screen(page, x, y))
    page.keyboard.up("Shift")
    assert (driver.current(page) == several & ~one).all()
    assert [step["kind"] for step in driver.steps(page)] == ["regions"] * 3
    assert [step["label"] for step in driver.steps(page)] == [1, 1, 0]
    page.keyboard.press("Control+z")
    assert (driver.current(page) == several).all()
    page.keyboard.press("Enter")

    with page.expect_response(lambda answer: "/regions?" in answer.url) as answered:
        page.keyboard.press("]")  # larger regions
    assert answered.value.ok
    driver.until(page, ready)
    away = (SIZE[1] - 20, SIZE[0] - 20)
    page.mouse.click(*driver.screen(page, *away))
    assert driver.current(page)[away[1], away[0]]


SMOOTHED = 60
"""Pixels of 600,000 that may differ, where a picture is enlarged from another corner."""


def drawn(page: Page) -> None:
    """Wait until no frame is left to draw."""
    frames = -1
    while (now := page.evaluate("window.dataengine.frameTimes().length")) != frames:
        frames = now
        page.wait_for_timeout(500)


def test_what_is_painted_looks_the_same_during_a_stroke_as_after_it_and_each_frame_paints_little(
    site: Site, url: str, page: Page
) -> None:
    site.annotate()
    driver.open_task(page, url)
    painted = "window.dataengine.pixelsPainted()"
    for key, aside in (("b", 0), ("e", 4)):  # then part of it is erased
        page.keyboard.press(key)
        page.mouse.move(*driver.screen(page, 60 + aside, 60 + aside))
        page.mouse.down()
        page.mouse.move(*driver.screen(page, 250 + aside, 70 + aside), steps=12)
        page.mouse.move(*driver.screen(page, 240 + aside, 210 + aside), steps=12)
        drawn(page)
        before = page.evaluate(painted)
        page.mouse.move(*driver.screen(page, 236 + aside, 212 + aside))
        drawn(page)
        density = page.evaluate("window.dataengine.editor.toScreen(1, 0)[0]")
        density -= page.evaluate("window.dataengine.editor.toScreen(0, 0)[0]")
        box = 190 * 150 * min(1.0, density) ** 2
        assert 0 < page.evaluate(painted) - before < box / 4
        live = driver.drawn(page)
        page.mouse.up()
        page.wait_for_timeout(200)
        different = np.abs(driver.drawn(page) - live).max(axis=1)
        assert np.count_nonzero(different) <= SMOOTHED
