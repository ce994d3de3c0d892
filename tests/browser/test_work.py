"""The page Work in a real browser: a chosen image, a task kept for later, finished work."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from engine.annotation.client import Client
from storage.catalog import TaskKind
from tests.annotation.site import Site
from tests.annotation.test_tasks import new_mask
from tests.annotation.test_work import opened_round
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.browser.driver import until

pytestmark = pytest.mark.slow

PICTURES = "[...document.querySelectorAll('.card img')].every((one) => one.naturalWidth > 0)"


def names(page: Page, section: str) -> list[str]:
    return page.locator(f"#{section} .name").all_inner_texts()


def test_an_annotator_chooses_an_image_and_comes_back_to_what_was_submitted(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    opened_round(site)
    with Client(url) as client:
        task = client.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        client.submit(task, [new_mask(mask_HW=site.masks_of(0)[0])], seconds=75)
    page.goto(f"{url}/work")
    driver.settled(page)
    until(page, PICTURES)
    assert names(page, "waiting") == ["1.png", "2.png"]
    assert names(page, "finished") == ["0.png"]
    assert "Nothing is begun" in page.locator("#mine").inner_text()
    round_text = page.locator("[data-dataset=d]").inner_text()
    assert "1 of 3 images done" in round_text
    assert "2 min 30 s of work left" in round_text
    assert page.locator("[data-figure=time]").inner_text().split("\n")[0] == "1 min 15 s"
    shot(page, "work")

    page.locator("#waiting article", has_text="2.png").locator("button").click()
    page.wait_for_url(f"{url}/annotate")
    driver.settled(page)
    assert page.locator("#file-name").inner_text() == "2.png"

    page.goto(f"{url}/work?dataset=d")
    driver.settled(page)
    assert page.locator("#dataset").input_value() == "d"
    assert names(page, "mine") == ["2.png"]
    page.locator("#finished button", has_text="Open it again").click()
    page.wait_for_url(f"{url}/annotate")
    driver.settled(page)
    assert page.locator("#file-name").inner_text() == "0.png"
