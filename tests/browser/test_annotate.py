"""Stages 1 and 2 at the page, in a real browser with the shipped model."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest
from playwright.sync_api import Page

from engine.annotation.client import Client
from engine.annotation.schemas import Point
from engine.core import rle as rle_codec
from engine.core.clicks import center_point
from engine.core.metrics import iou
from engine.core.records import Mask, Source, Stage
from storage.catalog import AnnotatorKind, TaskKind, TaskResult, TaskState, utc_now
from storage.masks import read_parquet, write_parquet
from storage.trajectories import read_trajectories
from tests.annotation.site import Site, served
from tests.browser import driver
from tests.browser.conftest import SIZE, Shot

pytestmark = pytest.mark.slow


def handed_in(site: Site, run_id: str) -> list[tuple[TaskResult, list[Mask]]]:
    """Result and masks of each submitted task."""
    return [
        (task.result, read_parquet(site.workspace.objects.get(str(task.result_key))))
        for task in site.workspace.queue.submitted(run_id)
    ]


def next_image(page: Page, name: str) -> None:
    driver.until(page, f"document.getElementById('file-name').textContent === '{name}'")
    driver.settled(page)


def test_from_the_first_click_to_the_mask_in_the_store(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    driver.open_task(page, url)
    truth = site.masks_of(0)[0]
    x, y = center_point(truth)
    driver.click(page, x, y)
    with Client(url) as client:  # another client on the same machine is the same annotator
        task = client.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        answer = client.predict(task, [Point(x=x, y=y, label=1)], multimask=True)
    told = driver.decoded(answer.candidates[answer.best].rle.model_dump())
    assert iou(driver.current(page), truth) == iou(told, truth) > 0.3
    assert page.locator("[data-candidate]").count() == 3
    step = driver.steps(page)[0]
    assert (step["kind"], step["x"], step["y"], step["label"]) == ("click", x, y, 1)
    shot(page, "annotate-click")

    others = [mask for mask in site.masks_of(0)[1:] if not (mask & truth).any()]
    away = center_point(others[0]) if others else (SIZE[1] - 2, SIZE[0] - 2)
    driver.click(page, *away, on_object=False)
    assert not driver.current(page)[away[1], away[0]]
    corrected = driver.current(page)

    page.keyboard.press("b")
    driver.drag(page, (10, 10), (30, 12))
    painted = driver.current(page)
    assert painted[10:13, 12:28].all()
    assert (painted | corrected == painted).all()
    page.keyboard.press("Control+z")
    assert (driver.current(page) == corrected).all()
    page.keyboard.press("Control+Shift+z")
    assert (driver.current(page) == painted).all()
    page.keyboard.press("Control+z")
    page.keyboard.press("v")
    page.keyboard.press("Enter")
    (mask,) = driver.finished(page)
    assert [event["kind"] for event in mask["trajectory"]][:3] == ["click", "click", "brush"]
    shot(page, "annotate-finished")
    page.keyboard.press("Control+Enter")
    next_image(page, "1.png")

    ((result, (stored,)),) = handed_in(site, "annotate")
    assert (rle_codec.decode(stored.rle) == corrected).all()
    assert (stored.source, stored.annotator, stored.clicks) == (Source.ANNOTATOR, "local", 2)
    assert stored.point_xy == (x, y)
    assert result.seconds >= stored.seconds > 0
    kinds = read_trajectories(site.workspace.objects.get(str(result.trajectories)))["kind"]
    assert kinds.to_pylist() == ["click", "click", "brush", "undo", "redo", "undo"]


def test_a_box_is_drawn_by_dragging_and_candidates_are_gone_through(
    site: Site, url: str, page: Page
) -> None:
    site.annotate()
    driver.open_task(page, url)
    truth = site.masks_of(0)[0]
    x0, y0, x1, y1 = rle_codec.box_xyxy(rle_codec.encode(truth))
    driver.drag(page, (x0, y0), ((x0 + x1) // 2, y1 - 1), (x1 - 1, y1 - 1))
    driver.until(page, driver.ANSWERED)
    assert iou(driver.current(page), truth) > 0.6
    assert driver.steps(page)[0]["kind"] == "box"
    page.keyboard.press("Escape")
    assert driver.steps(page) == []

    driver.click(page, *center_point(truth))
    seen = {driver.current(page).tobytes()}
    for _ in range(2):
        page.keyboard.press("c")
        seen.add(driver.current(page).tobytes())
    assert len(seen) == 3
    assert [step["kind"] for step in driver.steps(page)] == ["click", "candidate", "candidate"]
    areas = []
    for key in "321123":  # whole, part, subpart: the order of the buttons
        page.keyboard.press(key)
        areas.append(int(driver.current(page).sum()))
        pressed = page.locator("[data-candidate][aria-pressed=true]").inner_text()
        assert pressed.split()[0] == ("Whole", "Part", "Subpart")[int(key) - 1]
    assert areas[0] < areas[1] < areas[2]
    assert areas == areas[::-1]


def test_the_preview_shows_what_a_click_would_give(site: Site, url: str, page: Page) -> None:
    site.annotate()
    driver.open_task(page, url)
    x, y = center_point(site.masks_of(0)[0])
    with page.expect_response(lambda answer: answer.url.endswith("/predict")):
        page.mouse.move(*driver.screen(page, x, y))
    driver.until(page, f"{driver.EDITOR}.prompts.preview !== null")
    assert driver.steps(page) == []
    driver.click(page, x, y)
    assert driver.current(page).any()


def test_prefilled_masks_are_kept_rejected_and_fixed_and_the_rest_is_added(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.complete()
    driver.open_task(page, url)
    page.wait_for_timeout(300)
    shot(page, "complete-prefilled")
    given = site.mask_rows(0, "complete", Source.PREFILL, Stage.SEMI_AUTOMATIC)
    page.keyboard.press("Tab")  # the topmost of them
    page.keyboard.press("Delete")
    page.evaluate(f"{driver.EDITOR}.select({json.dumps(given[1].mask_id)})")
    page.keyboard.press("b")
    driver.drag(page, (5, 5), (40, 5))
    page.keyboard.press("Enter")
    page.keyboard.press("v")
    left = site.masks_of(0)[3:]
    driver.click(page, *(center_point(left[0]) if left else (SIZE[1] - 3, SIZE[0] - 3)))
    page.keyboard.press("Enter")
    shot(page, "complete-done")
    page.locator("#submit").click()
    next_image(page, "1.png")
    ((result, masks),) = handed_in(site, "complete")
    assert (result.prefilled, result.prefilled_kept, result.made) == (3, 1, 2)
    assert masks[0].mask_id == given[0].mask_id
    fixed = rle_codec.decode(masks[1].rle)
    assert fixed[5, 5:40].all()
    before = rle_codec.decode(given[1].rle)
    assert (fixed & before == before).all()


def test_a_reload_in_the_middle_loses_nothing(site: Site, url: str, page: Page) -> None:
    site.annotate()
    driver.open_task(page, url)
    first, second = site.masks_of(0)[:2]
    driver.click(page, *center_point(first))
    page.keyboard.press("Enter")
    driver.click(page, *center_point(second))
    driver.saved(page)
    before = (driver.finished(page), driver.current(page), driver.steps(page))
    page.reload()
    driver.settled(page)
    after = (driver.finished(page), driver.current(page), driver.steps(page))
    assert [mask["rle"] for mask in after[0]] == [mask["rle"] for mask in before[0]]
    assert (after[1] == before[1]).all()
    assert after[2] == before[2]
    page.keyboard.press("Control+z")  # the click on the second one
    assert (driver.steps(page), len(driver.finished(page))) == ([], 1)
    page.keyboard.press("Control+z")  # for finishing the first mask
    assert driver.finished(page) == []
    assert (driver.current(page) == driver.decoded(before[0][0]["rle"])).all()
    assert page.locator("[data-candidate]").count() == 3
    for _ in range(2):
        page.keyboard.press("Control+Shift+z")
    assert (driver.current(page) == before[1]).all()
    driver.click(page, *center_point(first), on_object=False)  # and it can be continued


def test_work_goes_on_while_the_server_is_away(site: Site, page: Page) -> None:
    site.annotate()
    with served(site.workspace, local=True) as url:
        driver.open_task(page, url)
        driver.click(page, *center_point(site.masks_of(0)[0]))
        page.keyboard.press("Enter")
        driver.saved(page)
        port = int(url.rsplit(":", 1)[1])
    page.keyboard.press("b")
    driver.drag(page, (20, 20), (60, 22))
    page.keyboard.press("Enter")
    driver.until(page, "document.getElementById('status').textContent.includes('offline')")
    with served(site.workspace, local=True, port=port):
        page.keyboard.press("Control+Enter")
        next_image(page, "1.png")
    ((_, masks),) = handed_in(site, "annotate")
    assert len(masks) == 2
    assert rle_codec.decode(masks[1].rle)[20, 22:58].all()


def handed_in_by_bob(site: Site, number: int) -> None:
    """Let the lease on the nth image expire; another annotator leases the image and submits it."""
    workspace = site.workspace
    workspace.queue.expire(utc_now() + timedelta(hours=3))
    # not a person: adding a person would end the local login
    bob = workspace.catalog.annotators.get_or_create("bob", kind=AnnotatorKind.SIMULATED)
    task = workspace.queue.lease(bob.id, kinds=[TaskKind.ANNOTATE])
    assert task is not None
    assert task.image_id == site.image_ids[number]
    masks = site.mask_rows(number, "annotate", Source.ANNOTATOR, Stage.ASSISTED_MANUAL, limit=2)
    key = f"annotations/annotate/bob-{number}.parquet"
    workspace.objects.put(key, write_parquet(masks))
    workspace.queue.submit(task.id, str(task.lease_id), key, TaskResult())


def test_work_on_an_image_that_somebody_else_got_goes_to_a_reviewer(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    driver.open_task(page, url)
    driver.click(page, *center_point(site.masks_of(0)[0]))
    page.keyboard.press("Enter")
    driver.saved(page)
    mine = driver.decoded(driver.finished(page)[0]["rle"])
    handed_in_by_bob(site, 0)
    page.keyboard.press("b")
    driver.drag(page, (10, 10), (60, 12))  # in progress when the page detects it
    page.wait_for_selector("#lease-lost")
    assert "a reviewer sees both versions" in page.locator("#lease-lost").inner_text()
    shot(page, "annotate-lost")

    page.keyboard.press("Enter")
    next_image(page, "1.png")
    page.keyboard.press("b")
    driver.drag(page, (10, 10), (60, 12))
    driver.saved(page)
    page.goto("about:blank")
    handed_in_by_bob(site, 1)
    driver.open_task(page, url)  # the work kept in this browser is sent now
    page.wait_for_selector("text=a reviewer picks from both")
    assert page.locator("#file-name").inner_text() == "2.png"

    page.goto(f"{url}/review")
    driver.settled(page)
    assert "Two versions" in page.locator("#task-note").inner_text()
    shot(page, "review-versions")
    cards = page.locator(".mask-card").all_inner_texts()
    assert (len(cards), sum("by local" in card for card in cards)) == (4, 2)
    with Client(url) as client:
        found = client.next_task([TaskKind.REVIEW])
        assert found.task is not None
        assert any((driver.decoded(m.rle.model_dump()) == mine).all() for m in found.task.masks)
        assert found.waiting == 1  # the other one


def test_everything_is_done_by_keyboard_alone(site: Site, url: str, page: Page) -> None:
    site.annotate()
    driver.open_task(page, url)
    x, y = center_point(site.masks_of(0)[0])
    page.keyboard.press("ArrowRight")  # the crosshair appears
    for _ in range(200):
        place = page.evaluate(f"{driver.EDITOR}.prompts.cursor")
        assert place is not None
        dx, dy = x - int(place[0]), y - int(place[1])
        if not dx and not dy:
            break
        name = ("ArrowRight" if dx > 0 else "ArrowLeft") if dx else None
        name = name or ("ArrowDown" if dy > 0 else "ArrowUp")
        far = abs(dx or dy) >= 10
        page.keyboard.press(f"Shift+{name}" if far else name)
    page.keyboard.press(".")
    driver.until(page, driver.ANSWERED)
    assert driver.current(page)[y, x]
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    next_image(page, "1.png")
    page.keyboard.press("Control+Space")
    next_image(page, "2.png")
    counts = site.workspace.queue.counts(run_id="annotate")
    assert (counts[TaskState.SUBMITTED], counts[TaskState.LEASED]) == (1, 1)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    assert "most prominent" in page.locator("dialog[open]").inner_text()


def test_when_the_queue_is_empty_the_page_waits_for_the_next_task(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    page.goto(f"{url}/annotate")
    page.wait_for_selector('body[data-state="empty"]')
    shot(page, "annotate-empty")
    site.annotate()
    driver.settled(page)


@pytest.mark.parametrize("masks", [200, 5000])
def test_many_masks_stay_usable(site: Site, url: str, page: Page, masks: int) -> None:
    from storage.masks import write_parquet

    many = many_masks(site, masks)
    site.complete()
    key = f"prefill/complete/{site.image_ids[0]}.parquet"
    site.workspace.objects.delete(key)
    site.workspace.objects.put(key, write_parquet(many))
    driver.open_task(page, url)
    count = page.evaluate(f"{driver.EDITOR}.session.rows().length")
    assert count == masks
    truth = site.masks_of(0)[0]
    driver.click(page, *center_point(truth))
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    next_image(page, "1.png")
    ((result, stored),) = handed_in(site, "complete")
    assert result.prefilled_kept == masks
    assert len(stored) == masks + 1


def many_masks(
    site: Site, count: int, size: tuple[int, int] = SIZE, *, image: int = 0
) -> list[Mask]:
    """Small masks with a hole, spread over the nth image, of this size; they grow with it."""
    from dataclasses import replace

    (row,) = site.mask_rows(image, "complete", Source.PREFILL, Stage.SEMI_AUTOMATIC, limit=1)
    rng = np.random.default_rng(1)
    shape = np.ones((9, 11), bool)
    shape[3:5, 4:6] = False
    grown = max(1, size[0] // (3 * SIZE[0]))
    shape = shape.repeat(grown, 0).repeat(grown, 1)
    rows = []
    for number in range(count):
        y = int(rng.integers(0, size[0] - shape.shape[0]))
        x = int(rng.integers(0, size[1] - shape.shape[1]))
        rows.append(
            replace(
                row,
                mask_id=f"complete/{row.image_id}/{number}",
                rle=rle_codec.from_window(shape, x, y, size),
                area=int(shape.sum()),
                box_xyxy=(x, y, x + shape.shape[1], y + shape.shape[0]),
            )
        )
    return rows
