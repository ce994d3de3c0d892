"""A real Chromium, signed in at a real page. Screenshots are kept in `.artifacts/browser`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from tests.annotation.site import Site, make_site, served
from tests.browser.driver import find_browser

torch.set_num_threads(1)
SHOTS = Path(__file__).parents[2] / ".artifacts" / "browser"
SIZE = (300, 400)
Shot = Callable[[Page, str], None]


@pytest.fixture(scope="module")  # Playwright runs an event loop, which would disturb other tests
def chromium() -> Iterator[Browser]:
    """The system's browser, else Playwright's own, which `infra/browser.sh` installs."""
    path = find_browser()
    with sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium here; `sh infra/browser.sh python3` gets one")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "ws", images=3, size=SIZE, kind="capsules")


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    """The page for this machine only: no sign-in is required."""
    with served(site.workspace, local=True) as address:
        yield address


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A fresh page; any error or warning in its console fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 720}, color_scheme="dark")
    context.set_default_timeout(20_000)
    found = context.new_page()
    problems: list[str] = []
    found.on("pageerror", lambda error: problems.append(str(error)))
    yield found
    context.close()
    assert not problems, problems


@pytest.fixture(scope="session")
def shot() -> Shot:
    """Takes a named screenshot."""
    SHOTS.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> None:
        page.screenshot(path=str(SHOTS / f"{name}.png"))

    return take
