"""A comment thread in a real browser: a reviewer pins, the annotator answers and corrects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page

from storage.catalog import TaskKind
from tests.annotation.site import Site, served
from tests.annotation.test_comments import review_of
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.browser.driver import until

pytestmark = pytest.mark.slow
TEXT = "<b>the left edge</b> is ragged ' & \" \u202e see there"
WIDE, NARROW = (1280, 720), (900, 620)
LAST = "document.querySelector('.comment:last-child .comment-text')?.textContent"


@contextmanager
def signed_in(
    chromium: Browser, site: Site, url: str, name: str, role: str, scheme: str
) -> Iterator[Page]:
    """A page of a person in a browser of their own."""
    context = chromium.new_context(
        viewport={"width": WIDE[0], "height": WIDE[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    context.set_default_timeout(20_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{url}/sign-in#{site.link(name, role)}")
    page.wait_for_url(lambda found: "sign-in" not in found)
    yield page
    context.close()
    assert not problems, problems


def shots(page: Page, shot: Shot, name: str) -> None:
    page.wait_for_timeout(300)
    shot(page, name)
    page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    page.wait_for_timeout(300)
    shot(page, f"{name}-narrow")
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    page.wait_for_timeout(300)


def pin(page: Page) -> tuple[float, float]:
    """The tip of the first pin in the window."""
    box = page.locator(".pins .pin").first.bounding_box()
    assert box is not None
    return box["x"], box["y"] + box["height"]


def test_a_reviewer_pins_a_comment_and_the_annotator_answers_and_corrects(
    site: Site, chromium: Browser, shot: Shot
) -> None:
    names = review_of(site, "ada")
    with (
        served(site.workspace) as url,
        signed_in(chromium, site, url, "ada", "annotator", "light") as ada,
        signed_in(chromium, site, url, "rita", "reviewer", "dark") as rita,
    ):
        rita.goto(f"{url}/review")
        driver.settled(rita)
        assert not rita.locator("#return").is_visible()
        rita.keyboard.press("c")
        rita.wait_for_selector(".stage[data-pinning]")
        rita.wait_for_timeout(300)
        box = rita.locator("#single-canvas").bounding_box()
        assert box is not None
        spot = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
        rita.mouse.click(*spot)
        rita.locator(".thread-text").fill(TEXT)
        shot(rita, "comment-writing")
        rita.locator(".thread-form .button").click()
        until(rita, f"{LAST} !== undefined")
        assert rita.locator(".comment-text").text_content() == TEXT
        assert rita.locator(".comment-text b").count() == 0, "it is text"
        assert pin(rita) == pytest.approx(spot, abs=1.5)
        shots(rita, shot, "comment-pinned")
        rita.locator("#return").click()
        rita.get_by_text("Return it").click()
        rita.wait_for_selector('body[data-state="empty"]')
        (comment,) = site.workspace.catalog.comments.of_image(site.image_ids[0])
        assert comment.mask_id == names[0]
        assert comment.x is not None
        assert comment.y is not None

        with signed_in(chromium, site, url, "bob", "annotator", "dark") as bob:
            asked: list[str] = []
            bob.on("request", lambda request: asked.append(request.url))
            bob.goto(f"{url}/annotate")
            bob.wait_for_selector('body[data-state="empty"]')
            bob.wait_for_timeout(3_000)
            again = sum(address.endswith("/tasks/next") for address in asked)
            assert again <= 3, "a task for somebody else is open, and the page does not hurry"
        driver.open_task(ada, url)
        ada.wait_for_selector(".thread .comment")
        there = driver.screen(ada, comment.x - 0.5, comment.y - 0.5)
        assert pin(ada) == pytest.approx(there, abs=1.5)
        for _ in range(12):
            ada.mouse.move(*driver.screen(ada, 10, 10))
            ada.mouse.wheel(0, -300)
        ada.wait_for_timeout(300)
        ada.locator(".pin-number").first.click()  # goes there
        ada.wait_for_timeout(300)
        left, top = pin(ada)
        assert 0 < left < WIDE[0]
        assert 0 < top < WIDE[1]
        ada.keyboard.press("0")
        shots(ada, shot, "comment-annotator")
        driver.click(ada, comment.x, comment.y)
        ada.keyboard.press("Enter")
        ada.locator(".thread-text").fill("Corrected: s and Enter are no commands here")
        ada.locator("#submit").click()  # sends what is written, too
        ada.wait_for_selector('body[data-state="empty"]')

        rita.reload()
        driver.settled(rita)
        until(rita, f"{LAST}?.startsWith('Corrected')")
        rita.wait_for_selector("#single:not([hidden])")
        assert rita.locator(".pins .pin").count() == 1
        shots(rita, shot, "comment-back")
        rita.locator("#accept-rest").click()
        rita.keyboard.press("Control+Enter")
        rita.wait_for_selector('body[data-state="empty"]')
    assert site.workspace.queue.by_kind()[TaskKind.COMPLETE]["submitted"] == 1
    assert all(one.resolved_at for one in site.workspace.catalog.comments.of_image(1))
