"""Review on a phone: a small window and fingers, in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession, Page

from tests.annotation.site import Site
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.browser.driver import until
from tests.browser.test_review import next_image, open_review, selected, verdicts

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 390, 844
"""CSS pixels of a common phone."""
LEAST_PX = 44
"""Height of a button that a thumb meets (WCAG 2.2 asks for 24)."""


@pytest.fixture
def phone(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(
        viewport={"width": WIDTH, "height": HEIGHT},
        device_scale_factor=2,
        has_touch=True,
        is_mobile=True,
        color_scheme="dark",
    )
    context.set_default_timeout(20_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert not problems, problems


def touch(session: CDPSession, kind: str, *places: tuple[float, float]) -> None:
    points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def swipe(page: Page, session: CDPSession, selector: str, dx: float) -> None:
    box = page.locator(selector).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch(session, "touchStart", (x, y))
    for step in range(1, 6):
        touch(session, "touchMove", (x + dx * step / 5, y))
    touch(session, "touchEnd")


def view(page: Page) -> dict[str, Any]:
    """Where a drawn pixel of the mask lies: the canvas as it is drawn."""
    found: dict[str, Any] = page.evaluate(
        "(() => { const c = document.getElementById('single-canvas');"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " let sum = 0; for (let i = 0; i < d.length; i += 401) sum = (sum * 31 + d[i]) % 1000003;"
        " return {sum, width: c.clientWidth, height: c.clientHeight}; })()"
    )
    return found


def test_a_reviewer_swipes_taps_and_pinches_through_an_image(
    site: Site, url: str, phone: Page, shot: Shot
) -> None:
    site.review()
    open_review(phone, url)
    session = phone.context.new_cdp_session(phone)
    until(phone, "document.querySelectorAll('.mask-card canvas').length === 3")
    phone.wait_for_timeout(300)
    shot(phone, "phone-grid")
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not phone.evaluate(wide)
    for command in ("accept", "reject", "undo", "fix"):
        box = phone.locator(f"[data-command={command}]").bounding_box()
        assert box is not None
        assert box["height"] >= LEAST_PX * 0.9, command
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= WIDTH

    swipe(phone, session, ".mask-card >> nth=0", 120)
    until(phone, "document.querySelectorAll('.mask-card')[0].dataset.verdict === 'accept'")
    swipe(phone, session, ".mask-card >> nth=1", -120)
    until(phone, "document.querySelectorAll('.mask-card')[1].dataset.verdict === 'reject'")
    phone.locator("#reasons button", has_text="too large").tap()
    third = phone.locator(".mask-card").nth(2)
    third.dblclick()
    phone.locator("#single-canvas").wait_for()
    phone.wait_for_timeout(300)
    shot(phone, "phone-single")
    before = view(phone)
    assert before["height"] > HEIGHT * 0.3, "the image has room"

    x, y = WIDTH / 2, 330.0
    touch(session, "touchStart", (x - 30, y), (x + 30, y))
    for step in range(1, 6):
        touch(session, "touchMove", (x - 30 - 12 * step, y), (x + 30 + 12 * step, y))
    touch(session, "touchEnd")
    phone.wait_for_timeout(150)
    assert view(phone)["sum"] != before["sum"], "two fingers zoom"
    assert verdicts(phone)[2] == "", "and give no verdict"
    swipe(phone, session, "#single-canvas", -130)
    until(phone, "document.querySelectorAll('.mask-card')[2].dataset.verdict === 'reject'")
    phone.locator("[data-command=undo]").tap()
    phone.locator("[data-command=accept]").tap()
    shot(phone, "phone-judged")
    assert verdicts(phone) == ["accept", "reject", "accept"]
    phone.locator("#submit").tap()
    next_image(phone, "1.png")

    phone.locator("#accept-rest").tap()
    assert verdicts(phone) == ["accept"] * 3, "a whole image at once"
    phone.locator("#submit").tap()
    next_image(phone, "2.png")
    phone.emulate_media(color_scheme="light")
    phone.wait_for_timeout(200)
    shot(phone, "phone-light")
    (first, _) = site.workspace.queue.submitted("review")
    assert [str(verdict.verdict) for verdict in first.result.verdicts] == [
        "accept",
        "reject",
        "accept",
    ]


def test_a_slow_finger_moves_the_image_and_gives_no_verdict(
    site: Site, url: str, phone: Page
) -> None:
    site.review()
    open_review(phone, url)
    phone.locator(".mask-card").nth(1).dblclick()
    phone.locator("#single-canvas").wait_for()
    phone.wait_for_timeout(200)
    before = view(phone)["sum"]
    session = phone.context.new_cdp_session(phone)
    touch(session, "touchStart", (100, 300))
    for step in range(6):
        phone.wait_for_timeout(100)
        touch(session, "touchMove", (100 + 25.0 * step, 300))
    touch(session, "touchEnd")
    phone.wait_for_timeout(100)
    assert view(phone)["sum"] != before
    assert verdicts(phone) == ["", "", ""]
    assert selected(phone).endswith("/1")


def test_work_and_the_dashboard_fit_a_phone(site: Site, url: str, phone: Page, shot: Shot) -> None:
    site.annotate()
    for path in ("work", "guidelines", "dashboard", "team", "annotate"):
        phone.goto(f"{url}/{path}")
        driver.settled(phone)
        phone.wait_for_timeout(200)
        widths = phone.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1], (path, widths)
        shot(phone, f"phone-{path}")
