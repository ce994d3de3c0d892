"""Every text of the page comes from the translation, in a language that brackets them all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, Route

from engine.annotation import strings
from engine.core.clicks import center_point
from tests.annotation.site import Site
from tests.browser import driver
from tests.browser.conftest import Shot

pytestmark = pytest.mark.slow

Look = Callable[[], None]

TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_ALL);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
    if (element.closest("script, style, kbd, pre")) continue;
    if (node.nodeType === Node.TEXT_NODE) found.push(node.data);
    else if (node.nodeType === Node.ELEMENT_NODE)
      for (const name of ["title", "aria-label", "placeholder", "alt", "aria-valuetext"])
        if (node.hasAttribute(name)) found.push(`${node.getAttribute(name)}\\n`);
  }
  return found;
}"""
"""Texts and attributes in the order of the page, hidden ones too. A sentence with nodes in it has
several pieces."""
INNERMOST = re.compile(r"⟦[^⟦⟧]*⟧")
HINT = re.compile(r" \((?:(?:Ctrl|Alt|Shift)\+)*(?:\w+|[^\w\s])\)")
"""A key, behind a button's title."""
DATA = {"d", "local", "lite", "in", "0.png", "1.png", "2.png"}
"""Names of the dataset, the person, the model and the images."""


def bracketed() -> strings.Strings:
    """A translation in which every text is within brackets."""

    def marked(text: str) -> str:
        return f"⟦{text}⟧"

    return {
        key: marked(value) if isinstance(value, str) else {"other": marked(value["other"])}
        for key, value in strings.english().items()
    }


@pytest.fixture
def foreign(chromium: Browser) -> Iterator[Page]:
    """A page in a browser that prefers German, for which the page has the bracketed texts."""
    texts = json.dumps(bracketed())

    def module(route: Route) -> None:
        source = route.fetch().text()
        assert source.count("LANGUAGES = [") == 1
        route.fulfill(
            body=source.replace("LANGUAGES = [", 'LANGUAGES = ["de", '),
            content_type="text/javascript",
        )

    context = chromium.new_context(viewport={"width": 1280, "height": 720}, locale="de-AT")
    context.set_default_timeout(20_000)
    context.route("**/static/js/shared/strings.js", module)
    context.route(
        "**/static/strings/de.json",
        lambda route: route.fulfill(body=texts, content_type="application/json"),
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert not problems, problems


def untranslated(page: Page) -> list[str]:
    """What is on the page outside of brackets, without data, numbers and keys."""
    text = HINT.sub("", "".join(page.evaluate(TEXTS)))
    while INNERMOST.search(text):
        text = INNERMOST.sub("\n", text)
    words = [word.strip(" ·\t") for word in re.split(r"\n| · ", text)]
    return [word for word in words if re.search(r"[^\W\d_]|[⟦⟧]", word) and word not in DATA]


def annotate(page: Page, site: Site, look: Look) -> None:
    """The editor with a mask in progress, a finished one, its panels and dialogs."""
    driver.settled(page)
    driver.click(page, *center_point(site.masks_of(0)[0]))
    look()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("m")
    look()
    page.keyboard.press("i")
    page.keyboard.press("Shift+c")
    look()
    page.keyboard.press("?")
    page.locator("#keys-dialog .keys-row").first.click()
    look()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Space")
    page.wait_for_selector("dialog[open]")
    look()


def opened(page: Page, site: Site, look: Look) -> None:
    """A page as it opens."""
    page.wait_for_load_state("networkidle")
    look()


PAGES: dict[str, Callable[[Page, Site, Look], None]] = {
    "annotate": annotate,
    "review": opened,
    "work": opened,
}
"""The pages, and what is done on each."""


def test_no_page_has_a_text_outside_the_translation(
    site: Site, url: str, foreign: Page, shot: Shot
) -> None:
    site.complete()
    site.review()
    found: set[str] = set()
    for name, use in PAGES.items():
        looks = 0

        def look(name: str = name) -> None:
            nonlocal looks
            looks += 1
            found.update(f"{name}: {one}" for one in untranslated(foreign))

        foreign.goto(f"{url}/{name}")
        use(foreign, site, look)
        assert looks
        assert foreign.locator("html").get_attribute("lang") == "de"
    shot(foreign, "translated")
    assert sorted(found) == []
