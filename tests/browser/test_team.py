"""The page Team in a real browser: a person, their link, an API token, the log."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from engine.annotation.client import Client
from tests.annotation.site import Site, served
from tests.browser import driver
from tests.browser.conftest import Shot

pytestmark = pytest.mark.slow


def secret(page: Page) -> str:
    """The secret that is shown; closes it."""
    box = page.locator("#secret input")
    box.wait_for()
    found = box.input_value()
    page.locator("#secret .dialog-close").click()
    return found


def test_an_admin_adds_a_person_makes_a_token_and_disables_them(
    site: Site, page: Page, shot: Shot
) -> None:
    site.annotate()
    with served(site.workspace) as url:
        page.goto(f"{url}/sign-in#{site.link('adam', 'admin')}")
        page.wait_for_url(f"{url}/dashboard")
        page.goto(f"{url}/team")
        driver.settled(page)
        page.locator("#invite").click()
        page.locator("input[name=name]").fill("adam")
        page.locator("dialog button[type=submit]").click()
        page.locator("dialog .bad").wait_for()
        assert "is taken" in page.locator("dialog .bad").inner_text()
        page.locator("input[name=name]").fill("grace")
        page.locator("select[name=role]").select_option("reviewer")
        shot(page, "team-invite")
        page.locator("dialog button[type=submit]").click()
        link = secret(page)
        row = page.locator("[data-person=grace]")
        row.wait_for()
        with Client(url, token=link.partition("#")[2]) as grace:
            assert grace.me.role == "reviewer"

            page.locator("#make-token").click()
            page.locator("select[name=person_id]").select_option(label="grace (reviewer)")
            page.locator("input[name=name]").fill("nightly figures")
            page.locator("dialog button[type=submit]").click()
            token = secret(page)
            with Client(url, api_token=token) as script:
                assert script.me.name == "grace"
            page.locator("[data-token='nightly figures']").wait_for()
            shot(page, "team")

            row.locator("button", has_text="Assign").click()
            page.locator("input[name=number]").fill("2")
            page.locator("dialog button[type=submit]").click()
            page.locator("[data-person=grace] [data-reserved='2']").wait_for()
            shot(page, "team-assigned")
            row.locator("button", has_text="Disable").click()
            page.locator("dialog .button-danger").click()
            page.locator("[data-person=grace] .badge-bad").wait_for()
            assert page.locator("[data-token]").count() == 0
            expect(page.locator("#audit tbody tr").first).to_contain_text("Annotator removed")
            assert token not in page.content()


def test_an_admin_changes_a_setting_and_sees_who_did(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    page.goto(f"{url}/team")
    driver.settled(page)
    row = page.locator("[data-setting='quality.review_share']")
    save = row.locator("button", has_text="Save")
    assert save.is_disabled()
    row.locator("input").fill("7")
    save.click()
    page.locator(".toast-bad").wait_for()
    row = page.locator("[data-setting='quality.review_share']")
    row.locator("input").fill("0.1")
    row.locator("input").press("Enter")
    row.locator("button", has_text="As in the file").wait_for()
    assert "local" in row.inner_text()
    page.locator("[data-setting='quality.feedback'] input").check()
    page.locator("[data-setting='quality.feedback'] button", has_text="Save").click()
    page.locator("[data-setting='quality.feedback'] button", has_text="As in the file").wait_for()
    page.locator("#settings").scroll_into_view_if_needed()
    shot(page, "settings")
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(200)
    shot(page, "settings-light")
    row.locator("button", has_text="As in the file").click()
    row.locator("button", has_text="As in the file").wait_for(state="detached")
    assert row.locator("input").input_value() == "0.2"
    expect(page.locator("#audit tbody tr").first).to_contain_text("Setting")
