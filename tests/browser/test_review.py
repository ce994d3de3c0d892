"""The review queue at the page, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from engine.core import rle as rle_codec
from storage.catalog import RunState, VerdictKind
from tests.annotation.site import Site
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.browser.driver import until

pytestmark = pytest.mark.slow


def open_review(page: Page, url: str) -> list[str]:
    """The masks of the first task, in the order they are shown."""
    page.goto(f"{url}/review")
    driver.settled(page)
    return shown(page)


def shown(page: Page) -> list[str]:
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('.mask-card')].map((card) => card.dataset.maskId)"
    )
    return found


def verdicts(page: Page) -> list[str]:
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('.mask-card')].map((card) => card.dataset.verdict ?? '')"
    )
    return found


def selected(page: Page) -> str:
    found: str = page.evaluate("document.querySelector('[aria-selected=true]').dataset.maskId")
    return found


def next_image(page: Page, name: str) -> None:
    until(page, f"document.getElementById('file-name').textContent === '{name}'")
    driver.settled(page)


def test_masks_are_accepted_rejected_and_fixed_by_key(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.review()
    ids = open_review(page, url)
    page.wait_for_timeout(300)
    shot(page, "review-grid")
    page.locator("#grid").focus()
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.keyboard.press("2")  # too large
    assert verdicts(page)[:2] == ["accept", "reject"]
    page.keyboard.press("f")
    until(page, "document.querySelector('#fix canvas') !== null")
    page.wait_for_timeout(500)
    page.keyboard.press("b")
    box = page.locator("#fix canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 10, steps=5)
    page.mouse.up()
    shot(page, "review-fix")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.mask-card')[2].dataset.verdict === 'fix'")
    shot(page, "review-judged")
    page.keyboard.press("Control+Enter")
    next_image(page, "1.png")

    task = next(iter(site.workspace.queue.submitted("review")))
    told = {verdict.mask_id: verdict for verdict in task.result.verdicts}
    assert told[ids[0]].verdict == "accept"
    assert (told[ids[1]].verdict, told[ids[1]].reason) == ("reject", "too large")
    assert told[ids[2]].verdict == "fix"
    assert str(told[ids[2]].fixed_mask_id).startswith(f"review/{task.image_id}/fix-")
    assert all(verdict.seconds >= 0 for verdict in told.values())


def test_the_rest_is_accepted_at_once_and_the_run_is_finished(
    site: Site, url: str, page: Page
) -> None:
    site.review()
    open_review(page, url)
    for name in ("1.png", "2.png", None):
        page.locator("#accept-rest").click()
        assert set(verdicts(page)) == {"accept"}
        page.keyboard.press("Control+Enter")
        if name:
            next_image(page, name)
    page.wait_for_selector('body[data-state="empty"]')
    catalog = site.workspace.catalog
    for _ in range(100):
        if catalog.runs.get("review").state == RunState.FINISHED:
            break
        page.wait_for_timeout(50)
    assert catalog.verdicts.counts(site.dataset_id)[VerdictKind.ACCEPT] == 9


def test_the_single_view_shows_a_mask_and_a_reload_keeps_the_verdicts(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.review()
    open_review(page, url)
    page.locator("#grid").focus()
    page.keyboard.press("a")
    page.keyboard.press("v")
    page.wait_for_selector("#single:not([hidden])")
    page.wait_for_timeout(300)
    shot(page, "review-single")
    page.keyboard.press("x")
    page.keyboard.press("v")
    until(page, "document.getElementById('saved').textContent.startsWith('Saved')")
    page.reload()
    driver.settled(page)
    assert verdicts(page)[0] == "accept"


def test_a_fix_is_what_the_reviewer_drew_and_no_key_drops_it_unasked(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.review()
    ids = open_review(page, url)
    page.locator("#grid").focus()
    page.keyboard.press("f")
    until(page, "document.querySelector('#fix canvas') !== null")
    page.wait_for_timeout(500)
    page.keyboard.press("e")
    box = page.locator("#fix canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 80, y)
    page.mouse.down()
    page.mouse.move(x + 80, y, steps=8)
    page.mouse.up()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.mask-card')[0].dataset.verdict === 'fix'")
    assert selected(page) == ids[1]  # Enter selects the next mask for the next verdict
    page.keyboard.press("u")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('dialog') === null")
    page.keyboard.press("ArrowLeft")
    for key in ("a", "r"):
        page.keyboard.press(key)
        page.wait_for_selector("dialog[open]")
        shot(page, f"review-drop-{key}")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('dialog') === null")
        assert verdicts(page) == ["fix", "", ""]
    page.keyboard.press("a")
    page.get_by_text("Accept the mask as it was").click()
    until(page, "document.querySelectorAll('.mask-card')[0].dataset.verdict === 'accept'")
    until(page, "document.getElementById('saved').textContent.startsWith('Saved')")
    page.reload()
    driver.settled(page)
    page.keyboard.press("u")  # the discarded fix can be restored, also after a reload
    assert verdicts(page) == ["fix", "", ""]
    page.locator("#accept-rest").click()
    page.keyboard.press("Control+Enter")
    next_image(page, "1.png")
    from storage.masks import read_parquet

    task = next(iter(site.workspace.queue.submitted("review")))
    (fix,) = read_parquet(site.workspace.objects.get(str(task.result_key)))
    old = next(m for m in site.workspace.masks.masks(run_id="made") if m.mask_id == ids[0])
    assert fix.supersedes == ids[0]
    new_mask, old_mask = rle_codec.decode(fix.rle), rle_codec.decode(old.rle)
    assert new_mask.sum() < old_mask.sum()
    assert (new_mask & old_mask == new_mask).all()
