"""A gold task at the page looks like any other; afterwards the page says what was missed."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from engine.core.clicks import center_point
from engine.core.records import Source, Stage
from flows.review.gold import add_from_truth
from storage.catalog import NewTask, RunKind, TaskKind
from tests.annotation.site import Site, make_site
from tests.browser import driver
from tests.browser.conftest import SIZE, Shot
from tests.browser.test_annotate import next_image

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Two ordinary tasks; the third image is gold, and the first task of everybody."""
    monkeypatch.setenv("DATAENGINE_QUALITY__GOLD_FIRST", "1")
    monkeypatch.setenv("DATAENGINE_QUALITY__FEEDBACK", "true")
    found = make_site(tmp_path / "ws", images=3, size=SIZE, kind="capsules")
    truth = found.mask_rows(2, "truth", Source.IMPORTED, Stage.ASSISTED_MANUAL, limit=99)
    found.workspace.truths.commit(truth, run_id="truth", shard=0)
    add_from_truth(found.workspace, "d", 1, 0)
    found.start_run("work", RunKind.ASSISTED_MANUAL)
    tasks = [
        NewTask(dataset_id=found.dataset_id, image_id=i, kind=TaskKind.ANNOTATE, run_id="work")
        for i in found.image_ids[:2]
    ]
    found.workspace.queue.add(tasks)
    return found


def facts(page: Page) -> str:
    return str(page.locator("#task-facts").text_content())


def mask_one(page: Page, site: Site, number: int) -> None:
    driver.click(page, *center_point(site.masks_of(number)[0]))
    page.keyboard.press("Enter")
    driver.settled(page)


def test_a_gold_task_is_unseen_and_then_says_what_was_missed(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    driver.open_task(page, url)
    assert page.locator("#file-name").text_content() == "2.png"
    assert facts(page) == "mask every object · d · 2 more waiting"
    mask_one(page, site, 2)
    page.click("#submit")
    dialog = page.locator("#feedback")
    dialog.wait_for()
    truths = len(site.masks_of(2))
    assert f"{truths - 1} of {truths} objects missed" in dialog.inner_text()
    shot(page, "gold-feedback-dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 420, "height": 720})
    page.wait_for_timeout(2500)  # longer than until a draft is saved: nothing is saved any more
    assert page.locator("dialog").count() == 1
    shot(page, "gold-feedback-light-narrow")
    page.set_viewport_size({"width": 1280, "height": 720})
    page.keyboard.press("Enter")  # OK has the focus
    next_image(page, "1.png")
    assert facts(page) == "mask every object · d · 1 more waiting"
    mask_one(page, site, 1)
    page.click("#submit")
    next_image(page, "0.png")
    assert page.locator("#feedback").count() == 0
    page.goto(f"{url}/dashboard")
    row = page.locator("#annotators tbody tr", has_text="local")
    row.wait_for()
    assert f"{1 / truths:.3f}".lstrip("0") in row.inner_text()
    page.locator("#annotators").scroll_into_view_if_needed()
    shot(page, "gold-dashboard-light")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 420, "height": 900})
    page.locator("#annotators").scroll_into_view_if_needed()
    shot(page, "gold-dashboard-dark-narrow")
