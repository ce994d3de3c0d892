"""An image on which people disagree, at the review page, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from flows.stages.assisted_manual import run_assisted_manual
from flows.workspace.settings import FILE_NAME, load_settings
from storage.catalog import TaskKind
from storage.masks import read_parquet
from tests.annotation.site import Site, served
from tests.annotation.test_consensus import QUALITY, opened, shared_image
from tests.annotation.test_tasks import new_mask
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.browser.driver import until
from tests.browser.test_comments import shots, signed_in

pytestmark = pytest.mark.slow
SETS = "[...document.querySelectorAll('.candidate-set')]"


def answered_differently(site: Site, url: str) -> None:
    """Three people annotate one image, the third one hardly."""
    row = opened(site)
    run_assisted_manual(site.workspace, row, wait=False)
    shown = {"ada": slice(0, 5), "bob": slice(0, 4), "cleo": slice(0, 1)}
    for name, part in shown.items():
        with site.client(url, name) as client:
            while (task := client.next_task([TaskKind.ANNOTATE]).task) is not None:
                number = site.image_ids.index(task.image.id)
                masks = site.masks_of(number)[part]
                drawn = [new_mask(f"m{n}", mask) for n, mask in enumerate(masks)]
                client.submit(task, drawn, seconds=2)
    assert run_assisted_manual(site.workspace, row, wait=False) is not None
    assert shared_image(site, row)


def test_a_reviewer_sees_the_masks_of_each_person_side_by_side_and_takes_the_merged_ones(
    site: Site, chromium: Browser, shot: Shot
) -> None:
    file = site.workspace.settings.root / FILE_NAME
    file.write_text(file.read_text() + QUALITY)
    site.workspace.settings = load_settings(file.parent)
    with (
        served(site.workspace) as url,
        signed_in(chromium, site, url, "adam", "admin", "dark") as dark,
    ):
        answered_differently(site, url)
        dark.goto(f"{url}/review")
        driver.settled(dark)
        titles = dark.evaluate(f"{SETS}.map((set) => set.querySelector('h2').textContent)")
        assert titles == ["ada", "bob", "cleo", "Merged"]
        shots(dark, shot, "candidates")
        assert not dark.locator("#accept-rest").is_visible(), "the sets repeat each other"
        dark.keyboard.press("Shift+A")
        assert dark.locator(".mask-card[data-verdict=accept]").count() == 0
        dark.locator(".candidate-set").nth(0).locator("button").click()
        until(dark, f"{SETS}[0].dataset.picked === 'true'")
        dark.locator("#sides").click()  # one by one
        assert dark.locator(".mask-card[data-verdict=accept]").count() == 5
        shots(dark, shot, "candidates-one-by-one")
        dark.locator("#sides").click()
        dark.get_by_text("Use the merged masks").click()
        until(dark, f"{SETS}[3].dataset.picked === 'true' && {SETS}[0].dataset.picked === 'false'")
        dark.keyboard.press("u")
        until(dark, f"{SETS}[0].dataset.picked === 'true'")
        dark.get_by_text("Use the merged masks").click()
        dark.emulate_media(color_scheme="light")
        shots(dark, shot, "candidates-light")
        dark.keyboard.press("Control+Enter")
        dark.wait_for_selector('body[data-state="empty"]')
        dark.goto(f"{url}/dashboard")
        dark.wait_for_selector("#consensus:not([hidden])")
        dark.locator("#consensus").scroll_into_view_if_needed()
        shots(dark, shot, "consensus-dashboard")
        (task,) = site.workspace.queue.latest(1, kinds=[TaskKind.REVIEW])
    masks = read_parquet(site.workspace.objects.get(str(task.result_key)))
    assert len(masks) == 4, "those of ada and bob; of cleo's the largest"
    assert {mask.run_id for mask in masks} == {task.run_id}
