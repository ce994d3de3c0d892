"""Guidelines in a real browser: written with a picture, read in the editor, an older version."""

from __future__ import annotations

import pytest
from playwright.sync_api import FilePayload, Page

from engine.annotation.client import Client
from storage.formats.images import write_png
from tests.annotation.site import Site
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.browser.driver import until

pytestmark = pytest.mark.slow

TEXT = """\
# Nuclei

- **Every nucleus** is a mask, also one that the border cuts.
- Two that touch are two masks: the edge runs where they meet.
- Leave out what is <out of focus>.

A right edge:
"""
SHOWN = "[...document.querySelectorAll('.guidelines img')].filter((i) => i.naturalWidth > 0).length"


def test_the_person_in_charge_writes_guidelines_with_a_picture_and_annotators_read_them(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.annotate()
    page.goto(f"{url}/guidelines")
    driver.settled(page)
    assert "the usual ones" in page.locator("#version").inner_text()
    page.locator("#edit").click()
    page.locator("#markdown").fill(TEXT)
    page.locator("#markdown").press("Control+End")
    picture = write_png(site.scenes[0].image_HWC)
    file = FilePayload(name="A right edge.png", mimeType="image/png", buffer=picture)
    page.locator("#picture").set_input_files(files=[file])
    until(page, SHOWN)
    assert "![A right edge](a-right-edge-" in page.locator("#markdown").input_value()
    shot(page, "guidelines-writing")
    page.emulate_media(color_scheme="light")
    shot(page, "guidelines-writing-light")
    page.emulate_media(color_scheme="dark")
    page.locator("#save").click()
    until(page, "document.getElementById('version').textContent.startsWith('version 1, by local')")
    assert "<out of focus>" in page.locator("#shown").inner_text()

    driver.open_task(page, url)
    until(page, "document.getElementById('guidelines').classList.contains('is-new')")
    page.keyboard.press("g")
    page.locator("#guidelines-dialog").wait_for()
    until(page, SHOWN)
    assert "Nuclei" in page.locator("#guidelines-dialog").inner_text()
    shot(page, "guidelines")
    page.keyboard.press("Escape")
    until(page, "!document.getElementById('guidelines').classList.contains('is-new')")


def test_a_version_written_meanwhile_is_shown_and_nothing_is_lost(
    site: Site, url: str, page: Page
) -> None:
    with Client(url) as client:
        client.guidelines.set("d", "# First", expected_version=0)
        page.goto(f"{url}/guidelines?dataset=d")
        driver.settled(page)
        page.locator("#edit").click()
        page.locator("#markdown").fill("# Mine")
        client.guidelines.set("d", "# Theirs", expected_version=1)
        page.locator("#save").click()
        page.locator("#newer").wait_for()
        assert "Theirs" in page.locator("#newer").inner_text()
        page.keyboard.press("Escape")
        assert page.locator("#markdown").input_value() == "# Mine"
        page.locator("#save").click()
        page.locator("#shown", has_text="Mine").wait_for()
        page.locator("#history").click()
        page.locator("[aria-label='Write from version 1']").click()
        assert page.locator("#markdown").input_value() == "# First"
        page.locator("#cancel").click()
        page.locator("dialog .button-danger").click()
        page.locator("#shown").wait_for()
        assert page.locator("#shown").inner_text() == "Mine"
        assert [one.markdown for one in client.guidelines.history("d")] == [
            "# Mine",
            "# Theirs",
            "# First",
        ]
