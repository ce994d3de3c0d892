"""The view: adjusted values, a stretched histogram, grid, ruler and map."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page

from storage.catalog import NewImage
from tests.annotation.site import Site, make_site, served
from tests.browser import driver
from tests.browser.conftest import SIZE, Shot

pytestmark = pytest.mark.slow


def pixel(x: float, y: float) -> str:
    """JavaScript for the red value of an image pixel on the screen."""
    place = f"{driver.EDITOR}.viewport.fromImage({x} + 0.5, {y} + 0.5)"
    context = "document.getElementById('canvas').getContext('2d')"
    return f"{context}.getImageData(...{place}.map(Math.floor), 1, 1).data[0]"


def shown(page: Page, x: float, y: float) -> list[int]:
    """The colour of an image pixel on the screen, RGB."""
    page.wait_for_timeout(60)  # a frame
    found: list[int] = page.evaluate(
        f"""(() => {{
            const canvas = document.getElementById("canvas");
            const [left, top] = {driver.EDITOR}.viewport.fromImage({x} + 0.5, {y} + 0.5);
            const data = canvas.getContext("2d").getImageData(left, top, 1, 1).data;
            return [...data].slice(0, 3);
        }})()"""
    )
    return found


def slide(page: Page, name: str, value: float) -> None:
    page.get_by_label(name, exact=True).fill(str(value))


def put_instead(site: Site, pixels: np.ndarray) -> None:
    """Make this the site's only image."""
    data = cv2.imencode(".png", pixels)[1].tobytes()
    put_files_instead(site, [data], (pixels.shape[0], pixels.shape[1]))


def put_files_instead(site: Site, files: list[bytes], size: tuple[int, int]) -> None:
    """Make these PNGs of one (H, W) the site's images."""
    images = []
    for number, data in enumerate(files):
        key = f"images/other-{number}.png"
        site.workspace.objects.put(key, data)
        digest = sha256(data).hexdigest()
        name = f"other-{number}.png"
        images.append(
            NewImage(sha256=digest, key=key, file_name=name, height=size[0], width=size[1])
        )
    site.image_ids[:] = site.workspace.catalog.images.add_many(site.dataset_id, images).ids


def test_values_are_adjusted_on_the_screen_only(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    driver.open_task(page, url)
    page.mouse.move(5, 5)
    before = shown(page, 100, 20)
    page.keyboard.press("Shift+I")
    assert shown(page, 100, 20) == [255 - value for value in before]
    page.keyboard.press("i")
    slide(page, "Gamma", 2)
    inverted = shown(page, 100, 20)
    assert inverted != [255 - value for value in before]
    shot(page, "view-inverted")
    page.locator(".editor-panel [data-action=invert]").click()
    slide(page, "Gamma", 0)
    slide(page, "Brightness", -40)
    assert all(now < then for now, then in zip(shown(page, 100, 20), before, strict=True))
    page.get_by_role("button", name="Red", exact=True).click()
    red = shown(page, 100, 20)
    assert len(set(red)) == 1
    page.reload()  # the settings stay in this tab
    driver.settled(page)
    page.mouse.move(5, 5)
    assert shown(page, 100, 20) == red
    page.keyboard.press("Shift+V")
    assert shown(page, 100, 20) == before


def test_a_deep_image_is_stretched_by_the_server(tmp_path: Path, page: Page, shot: Shot) -> None:
    site = make_site(tmp_path / "ws", images=1, size=SIZE, kind="capsules")
    scene = cv2.cvtColor(site.scenes[0].image_HWC, cv2.COLOR_RGB2GRAY)
    deep = 1_000 + scene.astype(np.uint16)  # one level of 256 of the whole range
    deep[:8] = 65_535
    put_instead(site, deep)
    site.annotate()
    with served(site.workspace, local=True) as url:
        driver.open_task(page, url)
        page.mouse.move(5, 5)
        places = [(x, y) for x in range(20, 400, 60) for y in range(20, 300, 60)]
        dark = [shown(page, x, y)[0] for x, y in places]
        assert max(dark) < 8
        page.keyboard.press("i")
        with page.expect_response(lambda answer: "low=3" in answer.url) as answered:
            slide(page, "Stretch the histogram", 3)
        assert answered.value.ok
        page.wait_for_timeout(300)
        bright = [shown(page, x, y)[0] for x, y in places]
        assert max(bright) - min(bright) > 150
        shot(page, "view-stretched")


def test_grid_ruler_and_map(site: Site, url: str, page: Page, shot: Shot) -> None:
    site.annotate()
    driver.open_task(page, url)
    before = shown(page, 49.5, 150)
    page.keyboard.press("Shift+G")
    assert shown(page, 49.5, 150) != before
    page.keyboard.press("r")
    driver.drag(page, (100, 100), (160, 180))
    assert page.evaluate(f"{driver.EDITOR}.drawing.length") == pytest.approx(100, abs=0.5)
    assert "100" in page.locator("#announce").inner_text()
    shot(page, "view-grid-ruler")
    page.keyboard.press("Escape")
    assert page.evaluate(f"{driver.EDITOR}.drawing.length") == 0
    page.keyboard.press("v")
    for _ in range(6):
        page.keyboard.press("+")
    page.wait_for_timeout(60)
    shot(page, "view-map")
    editor = driver.EDITOR
    box = page.evaluate(
        f"import('/static/js/editor/aids.js').then((a) => a.mapBox({editor}.viewport))"
    )
    left, top = page.evaluate(
        "(() => { const b = document.getElementById('canvas').getBoundingClientRect();"
        " return [b.left, b.top]; })()"
    )
    page.mouse.click(left + box[0] + box[2] * 0.75, top + box[1] + box[3] * 0.25)
    seen = page.evaluate(f"{editor}.viewport.seen")
    assert (seen[0] + seen[2]) / 2 == pytest.approx(SIZE[1] * 0.75, abs=2)
    assert (seen[1] + seen[3]) / 2 == pytest.approx(SIZE[0] * 0.25, abs=2)
    assert driver.steps(page) == []  # it was no click on the image


def test_a_moved_image_looks_as_if_it_were_drawn_anew(site: Site, url: str, page: Page) -> None:
    site.complete()
    driver.open_task(page, url)
    page.mouse.move(5, 5)
    hold = f"{driver.EDITOR}.viewport"
    frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    for factor in (1.7, 2.2):  # smooth, then with masks drawn one by one
        page.evaluate(f"{hold}.zoomAt(300, 200, {factor})")
        for dx, dy in ((0, 0), (13, -8), (-40, 0), (5, 31), (0, 0)):
            page.evaluate(f"{hold}.pan({dx}, {dy})")
            page.evaluate(frame)
        moved = driver.drawn(page)
        page.evaluate(f"{hold}.pan(0.5, 0), {frame}")
        page.evaluate(f"{hold}.pan(-0.5, 0), {frame}")
        assert (np.abs(driver.drawn(page) - moved).max(axis=1) > 1).sum() == 0


def test_a_large_image_is_shown_in_tiles(tmp_path: Path, page: Page, shot: Shot) -> None:
    site = make_site(tmp_path / "ws", images=1, size=SIZE, kind="capsules")
    large = np.full((700, 9_000), 128, np.uint8)
    large[:, ::2] = 100  # single columns, which a reduced copy does not have
    large[:, 4_500:] += 60
    put_instead(site, large)
    site.annotate()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with served(site.workspace, local=True) as url:
        driver.open_task(page, url)
        page.mouse.move(5, 5)
        assert not any("/tiles/" in address for address in asked)
        page.evaluate(f"{driver.EDITOR}.viewport.approach([4480, 300, 4520, 320])")
        for x in (4_481, 4_482, 4_519, 4_520):
            expected = int(large[310, x])
            shows = f"Math.abs({pixel(x, 310)} - {expected}) < 6"
            driver.until(page, shows)
        shot(page, "view-tiles")
        page.keyboard.press("Shift+I")
        driver.until(page, f"Math.abs({pixel(4_519, 310)} - (255 - {large[310, 4_519]})) < 6")
    assert any("/tiles/0/8/0" in address for address in asked)
    assert not any(address.endswith("/pixels") for address in asked)  # never the whole
