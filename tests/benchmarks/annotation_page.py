"""The editor in a real Chromium with many masks: milliseconds a frame while the image is moved or
zoomed, and while a stroke is painted; and how long an image takes to open.

`work_ms` is what drawing a frame takes, `frame_ms` the time from one drawn frame to the next; the
browser draws in software where there is no GPU. `cpu_ms_a_frame` is the processor time of the
browser's processes, which other load on the machine changes little; `task_ms` are the longest tasks
of the page's main thread (the browser reports those of 50 ms or more), `finish_ms` and the like
what a key's action takes it.
`pixels_a_frame` counts the pixels of masks that a frame hands to the browser. `heap_mb` is the
memory of the page's JavaScript, `rss_mb` that of the browser's processes together; `pss_mb` counts
what they share once. `first_paint_ms` is from the request of the page to the image on the screen:
`cold`, `warm` (the server has made the image ready, the browser has nothing), and `next`, from the
key that submits an image to the next one.

With `--tiles` the image is only panned and zoomed, as a large one whose tiles are loaded while it
moves. Its file is written by rows; the server takes 7 bytes a pixel to decode it, 8.4 GB for
40,000 x 30,000.

    python -m tests.benchmarks.annotation_page --json
    python -m tests.benchmarks.annotation_page --masks 5000 --size 4000 6000 --json
    python -m tests.benchmarks.annotation_page --masks 20 --size 30000 40000 --tiles --json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from storage.masks import write_parquet
from tests.annotation.site import Site, make_site, served
from tests.browser import driver
from tests.browser.conftest import SIZE
from tests.browser.test_annotate import many_masks
from tests.browser.test_seeing import put_files_instead

MOVES = 150
PATIENCE = 1_200
"""Seconds; a machine with other load takes long."""
READY = """(() => {
    globalThis.longTasks = [];
    new PerformanceObserver((list) => {
        for (const one of list.getEntries()) globalThis.longTasks.push(one.duration);
    }).observe({ type: "longtask" });
    new MutationObserver(() => {
        if (document.body?.dataset.state !== "ready") globalThis.readyAt = undefined;
        else requestAnimationFrame(() => (globalThis.readyAt ??= performance.now()));
    }).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });
})()"""
"""Notes when the image is on the screen."""


def large_png(height: int, width: int, seed: int) -> bytes:
    """A PNG of discs and coarse noise in little memory and time: one band of rows is compressed,
    then repeated, which deflate allows after a full flush."""
    rng = np.random.default_rng(seed)
    rows = min(height, 512)
    coarse = rng.integers(90, 130, (-(-rows // 8), -(-width // 8), 3), np.uint8)
    band = coarse.repeat(8, 0).repeat(8, 1)[:rows, :width].copy()
    for x in range(0, width, 700):
        centre = (x + int(rng.integers(300)), int(rng.integers(rows)))
        cv2.circle(band, centre, int(rng.integers(40, 200)), rng.integers(256, size=3).tolist(), -1)
    raw = np.zeros((rows, 1 + 3 * width), np.uint8)  # each row begins with its filter: none
    raw[:, 1:] = band.reshape(rows, -1)
    whole, rest = divmod(height, rows)
    parts, check = [b"\x78\x01"], 1
    for count, times in ((rows, whole), (rest, 1)):
        data = raw[:count].tobytes()
        squeeze = zlib.compressobj(1, wbits=-15)
        packed = squeeze.compress(data) + squeeze.flush(zlib.Z_FULL_FLUSH)
        for _ in range(times):
            parts.append(packed)
            check = zlib.adler32(data, check)
    parts += [zlib.compressobj(1, wbits=-15).flush(), struct.pack(">I", check)]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"".join(chunk(b"IDAT", part) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def measured(page: Page, act: Callable[[], None]) -> dict[str, Any]:
    """Frame times while something is done."""
    page.wait_for_timeout(300)
    page.evaluate("window.dataengine.frameTimes().length = 0")
    page.evaluate("window.dataengine.frameIntervals().length = 0")
    page.evaluate("longTasks.length = 0")
    before = page.evaluate("window.dataengine.pixelsPainted()")
    began = computed_ms()
    act()
    page.wait_for_timeout(100)
    computed = computed_ms() - began
    work = np.array(page.evaluate("window.dataengine.frameTimes()"))
    frames = np.array(page.evaluate("window.dataengine.frameIntervals()"))
    painted = page.evaluate("window.dataengine.pixelsPainted()") - before
    return {
        "pixels_a_frame": round(painted / max(1, len(work))),
        "frames": len(work),
        "cpu_ms_a_frame": round(computed / max(1, len(work)), 2),
        "work_ms_median": round(float(np.median(work)), 2),
        "work_ms_p95": round(float(np.percentile(work, 95)), 2),
        "frame_ms_median": round(float(np.median(frames)), 1),
        "frame_ms_p95": round(float(np.percentile(frames, 95)), 1),
        "task_ms": sorted(map(round, page.evaluate("longTasks")))[-3:],
    }


def browser() -> list[psutil.Process]:
    """The browser's processes."""
    mine = psutil.Process().children(recursive=True)
    return [one for one in mine if "chrom" in one.name()]


def computed_ms() -> float:
    """Processor time of the browser's processes so far."""
    times = [one.cpu_times() for one in browser()]
    return 1000 * float(sum(one.user + one.system for one in times))


def circle(page: Page, button: Literal["left", "middle"]) -> None:
    """Drag in circles around the middle of the canvas."""
    x, y = 540, 360
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    for step in range(MOVES):
        angle = 2 * math.pi * step / 50
        page.mouse.move(x + 120 * math.sin(angle), y + 90 * (math.cos(angle) - 1))
    page.mouse.up(button=button)


WHEEL = """() => new Promise((done) => {
    const canvas = document.querySelector("#editor canvas");
    const { x, y } = canvas.getBoundingClientRect();
    let step = 0;
    const turn = () => {
        if (step === 120) return done();
        const deltaY = step++ % 60 < 30 ? -20 : 20;
        const at = { clientX: x + 400, clientY: y + 300 };
        canvas.dispatchEvent(new WheelEvent("wheel", { deltaY, ...at, cancelable: true }));
        requestAnimationFrame(turn);
    };
    turn();
})"""


def wheel(page: Page) -> None:
    """Zoom in, then out, by an event a frame, as a trackpad gives them. Playwright's own wheel
    waits for each event's end, and so sets the pace."""
    page.evaluate(WHEEL)


def far(page: Page) -> None:
    """Drag in one direction, over tiles that were not seen yet, again and again."""
    for _ in range(6):
        page.mouse.move(900, 600)
        page.mouse.down(button="middle")
        page.mouse.move(200, 200, steps=MOVES // 6)
        page.mouse.up(button="middle")


def memory(page: Page) -> dict[str, float]:
    """Of the page's JavaScript, and of all processes of the browser (resident, counted whole)."""
    used = page.evaluate("performance.memory?.usedJSHeapSize ?? 0")
    resident = sum(one.memory_info().rss for one in browser())
    shared_once = sum(getattr(one.memory_full_info(), "pss", 0) for one in browser())
    sizes = {"heap": used, "rss": resident, "pss": shared_once}
    return {f"{name}_mb": round(size / 2**20, 1) for name, size in sizes.items()}


def tiled(page: Page) -> dict[str, Any]:
    """Zoom in to full resolution, and pan there."""
    page.mouse.move(540, 360)
    started = time.monotonic()
    for _ in range(30):
        page.mouse.wheel(0, -240)
    at_full = f"{driver.EDITOR}.tiles.isComplete({driver.EDITOR}.viewport)"
    driver.until(page, at_full, PATIENCE)
    found: dict[str, Any] = {"tiles_after_s": round(time.monotonic() - started, 1)}
    found["pan_tiles"] = measured(page, lambda: circle(page, "middle"))
    driver.until(page, at_full, PATIENCE)
    found["pan_again"] = measured(page, lambda: circle(page, "middle"))
    found["pan_far"] = measured(page, lambda: far(page))
    driver.until(page, at_full, PATIENCE)
    page.keyboard.press("f")
    found["zoom"] = measured(page, lambda: wheel(page))
    return {**found, **memory(page)}


def run_ms(page: Page, action: str) -> float:
    """What an action takes the page's main thread, until it waits for a frame."""
    took = page.evaluate(
        f"(() => {{ const began = performance.now(); {driver.EDITOR}.run('{action}');"
        " return performance.now() - began; })()"
    )
    page.wait_for_timeout(200)
    return round(float(took), 1)


def everything(page: Page) -> dict[str, Any]:
    """Pan when zoomed in, zoom, and paint a long stroke twice: on nothing, then over that mask."""
    found: dict[str, Any] = {"zoom": measured(page, lambda: wheel(page))}
    page.keyboard.press("f")
    page.keyboard.press("b")
    found["brush"] = measured(page, lambda: circle(page, "left"))
    found["brush_over"] = measured(page, lambda: circle(page, "left"))
    found.update(
        {f"{action}_ms": run_ms(page, action) for action in ("finish", "nextMask", "undo")}
    )
    page.mouse.move(540, 360)
    for _ in range(4):
        page.mouse.wheel(0, -120)
    found["pan"] = measured(page, lambda: circle(page, "middle"))
    return {**found, **memory(page)}


def ready_ms(page: Page) -> float:
    """From the page's request to the image on the screen."""
    is_empty = "document.body?.dataset.state === 'empty'"
    driver.until(page, f"globalThis.readyAt !== undefined || {is_empty}", PATIENCE)
    assert not page.evaluate(is_empty), page.locator("#empty").inner_text()
    return round(float(page.evaluate("readyAt")), 1)


def opened(chromium: Browser, url: str) -> tuple[Page, float]:
    """The page with nothing in the browser's cache, and `ready_ms`."""
    context = chromium.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    page.add_init_script(READY)
    page.goto(f"{url}/annotate")
    return page, ready_ms(page)


def next_ms(page: Page) -> float:
    """From the key that submits to the next image on the screen."""
    name = page.locator("#file-name").inner_text()
    started = page.evaluate("performance.now()")
    page.keyboard.press("Control+Enter")
    driver.until(page, f"document.getElementById('file-name').textContent !== '{name}'", PATIENCE)
    return round(ready_ms(page) - float(started), 1)


def make_large_site(folder: Path, masks: int, size: tuple[int, int], images: int) -> Site:
    """A queue of images of this size with so many pre-filled masks each."""
    settings = f"max_pixels = {max(200_000_000, size[0] * size[1])}\n"
    site = make_site(folder, images=images, size=SIZE, kind="capsules", settings=settings)
    put_files_instead(site, [large_png(*size, seed) for seed in range(images)], size)
    site.complete()
    for number, image_id in enumerate(site.image_ids):
        key = f"prefill/complete/{image_id}.parquet"
        site.workspace.objects.delete(key)
        rows = many_masks(site, masks, size, image=number)
        site.workspace.objects.put(key, write_parquet(rows))
    return site


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("H", "W"))
    parser.add_argument("--tiles", action="store_true", help="only pan and zoom in, on tiles")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    height, width = arguments.size
    found: dict[str, Any] = {"size": [height, width], "load": os.getloadavg()[0]}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = playwright.chromium.launch(
            executable_path=driver.find_browser(), args=["--no-sandbox"]
        )
        for count in arguments.masks:
            images = 1 if arguments.tiles else 2
            site = make_large_site(Path(folder) / str(count), count, (height, width), images)
            with served(site.workspace, local=True) as url:
                page, cold = opened(chromium, url)
                page.context.close()
                page, warm = opened(chromium, url)
                opening = {"cold": cold, "warm": warm}
                row = (tiled if arguments.tiles else everything)(page)
                if images > 1:
                    opening["next"] = next_ms(page)
                found[f"masks_{count}"] = {"first_paint_ms": opening, **row}
                page.context.close()
        chromium.close()
    if not arguments.json:
        for name, value in found.items():
            print(name, value)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
