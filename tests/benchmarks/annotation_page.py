"""The editor in a real Chromium with many masks: milliseconds a frame while the image is moved.

`work_ms` is what drawing a frame takes, `frame_ms` the time from one drawn frame to the next; the
browser draws in software where there is no GPU.

    python -m tests.benchmarks.annotation_page --json
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from storage.masks import write_parquet
from tests.annotation.site import make_site, served
from tests.browser import driver
from tests.browser.conftest import SIZE
from tests.browser.test_annotate import many_masks

MOVES = 150


def pan(page: Page) -> dict[str, Any]:
    """Zoom in, then drag the image about; frame times."""
    x, y = driver.screen(page, SIZE[1] / 2, SIZE[0] / 2)
    page.mouse.move(x, y)
    for _ in range(4):
        page.mouse.wheel(0, -120)
    page.wait_for_timeout(300)
    page.evaluate("window.dataengine.frameTimes().length = 0")
    page.evaluate("window.dataengine.frameIntervals().length = 0")
    page.mouse.down(button="middle")
    for step in range(MOVES):
        angle = 2 * math.pi * step / 50
        page.mouse.move(x + 120 * math.sin(angle), y + 90 * (math.cos(angle) - 1))
    page.mouse.up(button="middle")
    work = np.array(page.evaluate("window.dataengine.frameTimes()"))
    frames = np.array(page.evaluate("window.dataengine.frameIntervals()"))
    return {
        "frames": len(work),
        "work_ms_median": round(float(np.median(work)), 2),
        "work_ms_p95": round(float(np.percentile(work, 95)), 2),
        "frame_ms_median": round(float(np.median(frames)), 1),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=driver.find_browser(), args=["--no-sandbox"]
        )
        for count in arguments.masks:
            site = make_site(Path(folder) / str(count), images=1, size=SIZE, kind="capsules")
            site.complete()
            key = f"prefill/complete/{site.image_ids[0]}.parquet"
            site.workspace.objects.delete(key)
            site.workspace.objects.put(key, write_parquet(many_masks(site, count)))
            with served(site.workspace, local=True) as url:
                page = browser.new_page(viewport={"width": 1280, "height": 720})
                driver.open_task(page, url)
                found[f"masks_{count}"] = pan(page)
                page.close()
        browser.close()
    if not arguments.json:
        for name, row in found.items():
            print(name, row)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
