"""Browse at the page, in a real browser: filters, an image, a selection for review, a link."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Page

from engine.core.clicks import center_point
from engine.core.records import Mask, Source, Stage
from storage.catalog import RunKind, TaskKind
from tests.annotation.site import Site
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.browser.driver import until

pytestmark = pytest.mark.slow

DRAWN = "[...document.querySelectorAll('.card canvas')].every((one) => one.width > 32)"


def fill(site: Site) -> list[str]:
    """Automatic masks of all images, with scores from .5 on, and three that Ada drew; the ids of
    the automatic ones."""
    made: list[Mask] = []
    drawn: list[Mask] = []
    for number in range(len(site.image_ids)):
        rows = site.mask_rows(number, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=8)
        for row in rows:
            score = 0.5 + 0.01 * len(made)
            made.append(replace(row, predicted_iou=score, stability_score=1 - score / 2))
        rows = site.mask_rows(number, "drawn", Source.ANNOTATOR, Stage.ASSISTED_MANUAL, limit=1)
        drawn += [
            replace(row, annotator="ada", predicted_iou=None, supersedes=made[-1].mask_id, clicks=3)
            for row in rows
        ]
    for run_id, kind, rows in (
        ("made", RunKind.FULLY_AUTOMATIC, made),
        ("drawn", RunKind.ASSISTED_MANUAL, drawn),
    ):
        site.start_run(run_id, kind)
        site.workspace.masks.commit(rows, run_id=run_id, shard=0)
    gone = {row.supersedes for row in drawn}
    return [row.mask_id for row in made if row.mask_id not in gone]


def shown(page: Page) -> list[str]:
    """The cards in sight, in their order."""
    found: list[str] = page.evaluate(
        "[...dataengine.browse.grid.cards].sort((a, b) => a[0] - b[0])"
        ".map(([, card]) => card.dataset.key)"
    )
    return found


def open_browse(page: Page, address: str) -> None:
    page.goto(address)
    driver.settled(page)
    until(page, DRAWN)


def total(page: Page) -> str:
    return page.locator("#total").inner_text()


def test_masks_are_filtered_opened_and_sent_to_review_and_a_link_shows_the_same(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    made = fill(site)
    open_browse(page, f"{url}/browse")
    assert total(page) == f"{len(made) + 3} masks"
    page.wait_for_timeout(500)
    shot(page, "browse")

    page.locator("[data-field=source] label", has_text="Automatic").click()
    until(page, f"document.getElementById('total').textContent === '{len(made)} masks'")
    page.locator("#sort").select_option("predicted_iou")
    page.locator("#direction").click()
    until(page, f"dataengine.browse.grid.item(0)?.mask_id === '{made[-1]}'")
    driver.settled(page)
    until(page, DRAWN)
    assert shown(page) == made[::-1]
    page.locator("[data-field=predicted_iou] [data-end=min]").fill("0.55")
    page.keyboard.press("Enter")
    passing = made[sum(site_score(made, name) < 0.55 for name in made) :]
    until(page, f"document.getElementById('total').textContent === '{len(passing)} masks'")
    driver.settled(page)
    assert shown(page) == passing[::-1]

    # the link shows the same in another page, also after masks were added
    address = page.evaluate("dataengine.browse.view.link(dataengine.browse.version)")
    rows = site.mask_rows(0, "more", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
    site.start_run("more", RunKind.FULLY_AUTOMATIC)
    site.workspace.masks.commit(rows, run_id="more", shard=0)
    other = page.context.new_page()
    open_browse(other, address)
    assert shown(other) == passing[::-1]
    assert other.locator("#pinned").is_visible()
    other.get_by_text("Show the newest").click()
    until(other, f"document.getElementById('total').textContent === '{len(passing) + 3} masks'")
    other.close()

    # one image, with the history of its masks
    page.locator(".card").first.click()
    page.wait_for_selector(".detail .histories")
    page.wait_for_timeout(300)
    shot(page, "browse-image")
    text = page.locator(".detail").inner_text()
    assert "Drawn by ada" in text
    assert "Superseded by the mask drawn by ada" in text
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="hidden")
    page.go_back()
    page.wait_for_selector(".detail .histories")
    page.go_back()
    page.wait_for_selector("#detail", state="hidden")

    # two masks go to review
    for place in (0, 1):
        page.locator(f"#card-{place} .pick input").check()
    shot(page, "browse-selected")
    assert "false" not in page.locator("#commands").inner_text(), "a button that is left out"
    page.locator("[data-command=review]").click()
    page.wait_for_selector(".toast-good")
    assert page.locator("#commands").is_hidden()
    tasks = site.workspace.queue.upcoming(kinds=[TaskKind.REVIEW], limit=9)
    asked = {name for task in tasks for name in task.payload["mask_ids"]}
    assert asked == {*passing[-2:]}


def site_score(made: list[str], name: str) -> float:
    """The predicted IoU that `fill` gave; superseded masks have one too."""
    _, image, number = name.split("/")
    images = sorted({int(one.split("/")[1]) for one in made})
    return 0.5 + 0.01 * (8 * images.index(int(image)) + int(number))


def test_masks_are_deleted_and_images_sent_to_annotators_by_key(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    made = fill(site)
    open_browse(page, f"{url}/browse?dataset=d&source=automatic")
    page.locator("#grid").focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.locator("[data-command=reject]").click()
    page.wait_for_selector("dialog[open]")
    page.locator("dialog .button-danger").click()
    page.wait_for_selector(".toast-good")
    verdicts = site.workspace.catalog.verdicts
    for _ in range(200):
        if len(verdicts.rejected_mask_ids(site.dataset_id)) == 2:
            break
        page.wait_for_timeout(50)
    page.reload()
    driver.settled(page)
    page.locator("[data-field=verdict] label", has_text="Reject").click()
    until(page, "document.getElementById('total').textContent === '2 masks'")
    assert set(shown(page)) == set(made[:2])

    page.goto(f"{url}/browse?dataset=d&show=images")
    driver.settled(page)
    until(page, DRAWN)
    shot(page, "browse-images")
    page.locator("#all").click()
    page.locator("[data-command=annotate]").click()
    page.wait_for_selector(".toast-good")
    tasks = site.workspace.queue.upcoming(kinds=[TaskKind.COMPLETE], limit=9)
    assert sorted(task.image_id for task in tasks) == site.image_ids
    assert not {name for task in tasks for name in task.payload["mask_ids"]} & set(made[:2])


def kinds(mask: dict[str, Any]) -> list[str]:
    """The kinds of the steps by which a mask was made."""
    return [event["kind"] for event in mask["trajectory"]]


def test_an_annotator_opens_submitted_work_again(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    driver.open_task(page, url)
    for mask in site.masks_of(0)[:2]:
        driver.click(page, *center_point(mask))
        page.keyboard.press("Enter")
    before = driver.finished(page)
    page.keyboard.press("Control+Enter")
    until(page, "document.getElementById('file-name').textContent === '1.png'")
    page.goto(f"{url}/browse?show=finished")
    driver.settled(page)
    until(page, DRAWN)
    shot(page, "browse-finished")
    page.locator(".card").click()
    page.wait_for_selector(".detail .histories")
    page.wait_for_timeout(300)
    shot(page, "browse-finished-image")
    page.locator("#reopen").click()
    page.wait_for_url("**/annotate")
    driver.settled(page)
    assert page.locator("#file-name").inner_text() == "0.png"
    after = driver.finished(page)
    assert [mask["rle"] for mask in after] == [mask["rle"] for mask in before]
    kinds, again = (
        [[e["kind"] for e in m["trajectory"]] for m in masks] for masks in (before, after)
    )
    assert kinds == again
    third = site.masks_of(0)[2]
    driver.click(page, *center_point(third))
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    until(page, "document.getElementById('file-name').textContent === '1.png'")
    (task,) = site.workspace.queue.submitted("annotate")
    assert task.result.made == 3
