"""Webhooks on the page Team in a real browser: added, tested, sent again, removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from flows.workspace.workspace import open_workspace
from tests.annotation.site import make_site, served
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.webhook_receiver import receiving

pytestmark = pytest.mark.slow


def test_an_admin_adds_a_webhook_sees_it_fail_and_sends_it_again(
    tmp_path: Path, page: Page, shot: Shot
) -> None:
    folder = tmp_path / "ws"
    site = make_site(folder, images=1)
    toml = folder / "dataengine.toml"
    toml.write_text(f'{toml.read_text()}[page]\nwebhook_networks = ["127.0.0.0/8"]\n')
    open_workspace.cache_clear()
    with receiving() as receiver, served(open_workspace(str(folder)), local=True) as url:
        page.goto(f"{url}/team")
        driver.settled(page)
        page.locator("#add-webhook").click()
        page.locator("input[name=url]").fill("http://10.0.0.1/hook")
        shot(page, "webhooks-add")
        page.locator("dialog button[type=submit]").click()
        page.locator("dialog .bad").wait_for()
        assert "not public" in page.locator("dialog .bad").inner_text()
        page.locator("input[name=url]").fill(receiver.url)
        page.locator("dialog label", has_text="labels.given").click()
        page.locator("dialog button[type=submit]").click()
        box = page.locator("#secret input")
        box.wait_for()
        assert box.input_value().startswith("whsec_")
        page.locator("#secret .dialog-close").click()
        page.locator("[data-webhook] button", has_text="Test").wait_for()
        events = page.locator("[data-webhook] td").nth(1).inner_text()
        assert "model.promoted" in events
        assert "labels.given" not in events

        receiver.statuses = [410]
        page.locator("[data-webhook] button", has_text="Test").click()
        page.locator("[data-webhook] .badge-warn", has_text="paused").wait_for()
        page.locator("[data-delivery] .badge-bad").wait_for()
        receiver.statuses = [204]
        page.locator("[data-webhook] button", has_text="Resume").click()
        page.locator("[data-webhook] .badge-good").wait_for()
        page.locator("[data-delivery] button", has_text="Send again").click()
        page.locator("[data-delivery] .badge-good").wait_for()
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        page.locator("#webhooks").scroll_into_view_if_needed()
        shot(page, "webhooks")
        page.emulate_media(color_scheme="light")
        page.wait_for_timeout(200)
        shot(page, "webhooks-light")
        page.locator("[data-delivery] .button-quiet").first.click()
        assert '"type": "dataengine.test"' in page.locator("#delivery pre").inner_text()
        page.keyboard.press("Escape")
        page.locator("[data-webhook] button", has_text="Remove").click()
        page.locator("dialog .button-danger").click()
        page.locator("#webhooks p").wait_for()
        expect(page.locator("#audit tbody tr").first).to_contain_text("Webhook removed")
    assert site.workspace.catalog.webhooks.all() == []
