"""The editor in a real Chromium with many masks: milliseconds a frame while the image is moved or
zoomed, and while a stroke is painted.

`work_ms` is what drawing a frame takes, `frame_ms` the time from one drawn frame to the next; the
browser draws in software where there is no GPU. `pixels_a_frame` counts the pixels of masks that a
frame hands to the browser: it does not depend on what else the machine does. `heap_mb` and `rss_mb`
are the memory of the page's JavaScript and of the browser's processes together. With `--tiles` the
image is pan and zoomed in only, as a large one whose tiles are loaded while it moves.

    python -m tests.benchmarks.annotation_page --json
    python -m tests.benchmarks.annotation_page --masks 5000 --size 4000 6000 --json
    python -m tests.benchmarks.annotation_page --masks 20 --size 30000 40000 --tiles --json
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright

from storage.masks import write_parquet
from tests.annotation.site import make_site, served
from tests.browser import driver
from tests.browser.conftest import SIZE
from tests.browser.test_annotate import many_masks
from tests.browser.test_seeing import put_instead

MOVES = 150


def measured(page: Page, act: Callable[[], None]) -> dict[str, Any]:
    """Frame times while something is done."""
    page.wait_for_timeout(300)
    page.evaluate("window.dataengine.frameTimes().length = 0")
    page.evaluate("window.dataengine.frameIntervals().length = 0")
    before = page.evaluate("window.dataengine.pixelsPainted()")
    act()
    page.wait_for_timeout(100)
    work = np.array(page.evaluate("window.dataengine.frameTimes()"))
    frames = np.array(page.evaluate("window.dataengine.frameIntervals()"))
    painted = page.evaluate("window.dataengine.pixelsPainted()") - before
    return {
        "pixels_a_frame": round(painted / max(1, len(work))),
        "frames": len(work),
        "work_ms_median": round(float(np.median(work)), 2),
        "work_ms_p95": round(float(np.percentile(work, 95)), 2),
        "frame_ms_median": round(float(np.median(frames)), 1),
        "frame_ms_p95": round(float(np.percentile(frames, 95)), 1),
    }


def circle(page: Page, button: Literal["left", "middle"]) -> None:
    """Drag in circles around the middle of the canvas."""
    x, y = 540, 360
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    for step in range(MOVES):
        angle = 2 * math.pi * step / 50
        page.mouse.move(x + 120 * math.sin(angle), y + 90 * (math.cos(angle) - 1))
    page.mouse.up(button=button)


def wheel(page: Page) -> None:
    """Zoom in, then out."""
    page.mouse.move(540, 360)
    for step in range(40):
        page.mouse.wheel(0, -60 if step < 20 else 60)
        page.wait_for_timeout(16)


def memory(page: Page) -> dict[str, float]:
    """Of the page's JavaScript, and of all processes of the browser (resident, counted whole)."""
    used = page.evaluate("performance.memory?.usedJSHeapSize ?? 0")
    mine = psutil.Process().children(recursive=True)
    names = [one for one in mine if "chrom" in one.name()]
    resident = sum(one.memory_info().rss for one in names)
    return {"heap_mb": round(used / 2**20, 1), "rss_mb": round(resident / 2**20, 1)}


def tiled(page: Page) -> dict[str, Any]:
    """Zoom in to full resolution, and pan there."""
    page.mouse.move(540, 360)
    for _ in range(30):
        page.mouse.wheel(0, -240)
    page.wait_for_timeout(2_000)
    found = {"pan_tiles": measured(page, lambda: circle(page, "middle"))}
    page.wait_for_timeout(2_000)
    return {**found, "pan_again": measured(page, lambda: circle(page, "middle")), **memory(page)}


def everything(page: Page) -> dict[str, Any]:
    """Pan when zoomed in, zoom, and paint a long stroke twice: on nothing, then over that mask."""
    found = {"zoom": measured(page, lambda: wheel(page))}
    page.keyboard.press("f")
    page.keyboard.press("b")
    found["brush"] = measured(page, lambda: circle(page, "left"))
    found["brush_over"] = measured(page, lambda: circle(page, "left"))
    page.keyboard.press("Escape")
    page.mouse.move(540, 360)
    for _ in range(4):
        page.mouse.wheel(0, -120)
    found["pan"] = measured(page, lambda: circle(page, "middle"))
    return {**found, **memory(page)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("H", "W"))
    parser.add_argument("--tiles", action="store_true", help="only pan and zoom in, on tiles")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    height, width = arguments.size
    found: dict[str, Any] = {"size": [height, width]}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=driver.find_browser(), args=["--no-sandbox"]
        )
        for count in arguments.masks:
            site = make_site(Path(folder) / str(count), images=1, size=SIZE, kind="capsules")
            scene = cv2.cvtColor(site.scenes[0].image_HWC, cv2.COLOR_RGB2BGR)
            put_instead(site, cv2.resize(scene, (width, height)))
            site.complete()
            key = f"prefill/complete/{site.image_ids[0]}.parquet"
            site.workspace.objects.delete(key)
            site.workspace.objects.put(key, write_parquet(many_masks(site, count, (height, width))))
            with served(site.workspace, local=True) as url:
                page = browser.new_page(viewport={"width": 1280, "height": 720})
                driver.open_task(page, url)
                found[f"masks_{count}"] = (tiled if arguments.tiles else everything)(page)
                page.close()
        browser.close()
    if not arguments.json:
        for name, row in found.items():
            print(name, row)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
