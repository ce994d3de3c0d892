"""axe-core (WCAG 2.2 A and AA) on every page, dark and light, and every page at 200 % zoom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, ViewportSize

from engine.annotation.app import PAGES
from storage.catalog import NewTask, RunKind, TaskKind
from tests.annotation.site import Site, served
from tests.annotation.test_tasks import new_mask
from tests.browser.conftest import Shot
from tests.browser.driver import until
from tests.browser.test_browse import fill

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
AXE = REPOSITORY / ".cache" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
NO_REGISTRY = 3
"""Exit status of `infra/npm_tools.sh` where npm's registry does not answer."""
BAD = ("serious", "critical")
RULES = """axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
    .then((found) => found.violations)"""
CONTRASTS = """axe.run({runOnly: {type: "rule", values: ["color-contrast"]}})
    .then((found) => found.violations)"""
FULL: ViewportSize = {"width": 1280, "height": 720}
DOUBLE: ViewportSize = {"width": 640, "height": 360}
"""The same window at 200 % zoom, in CSS pixels."""
STEP_MS = 300
"""How long sizes and dialogs change."""
LOADED = "['ready', 'empty', 'error'].includes(document.body.dataset.state)"


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    command = ["sh", "infra/npm_tools.sh", sys.executable]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode == NO_REGISTRY:
        pytest.skip("npm's registry does not answer: axe-core is missing")
    assert done.returncode == 0, done.stderr
    return AXE.read_text()


@pytest.fixture
def worked(site: Site) -> Site:
    """A site with masks of all kinds, tasks, people, a failed job and finished work."""
    fill(site)
    site.review()
    site.annotate()
    site.workspace.catalog.runs.start(
        "broken", RunKind.RETRAIN, dataset_id=site.dataset_id, model="lite"
    )
    with served(site.workspace) as url, site.client(url, "adam", "admin") as adam:
        task = adam.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        adam.submit(task, [new_mask(mask_HW=site.masks_of(0)[0])], seconds=75)
        (mine,) = [one for one in adam.team.view().people if one.is_self]
        adam.team.make_token(mine.id, "nightly", 3)
        made = adam.team.invite("grace", "reviewer", ["d"])
        (grace,) = [one for one in adam.team.view().people if one.name == made.name]
        adam.team.disable(grace.id)
        adam.stop(adam.start("advance").id)
        keep_for(site, mine.id)
    return site


def keep_for(site: Site, person_id: int) -> None:
    """A task that is reserved for a person."""
    task = NewTask(
        dataset_id=site.dataset_id,
        image_id=site.image_ids[2],
        kind=TaskKind.COMPLETE,
        run_id="annotate",
        reserved_for=person_id,
    )
    site.workspace.queue.add([task])


def told(violations: list[dict[str, Any]]) -> list[str]:
    """The serious ones, a line for each element."""
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:300]!r}"
        for one in violations
        if one["impact"] in BAD
        for node in one["nodes"]
    ]


def states() -> list[tuple[str, str]]:
    """Pages and their dialogs: a path, and JavaScript that opens one."""
    return [
        *((path, "") for path in PAGES),
        ("/browse?show=images", ""),
        ("/browse", "document.querySelector('.card').click()"),
        ("/team", "document.getElementById('invite').click()"),
        ("/dashboard", "document.querySelector('[data-action=generate]').click()"),
    ]


def faults_of(page: Page, axe: str) -> list[str]:
    """What axe finds: all rules in the dark, only contrasts in the light."""
    page.evaluate(axe)
    found = [f"dark {line}" for line in told(page.evaluate(RULES))]
    page.emulate_media(color_scheme="light")
    found += [f"light {line}" for line in told(page.evaluate(CONTRASTS))]
    page.emulate_media(color_scheme="dark")
    return found


def overflow_of(page: Page) -> list[str]:
    """Whether the page is wider than its window at 200 % zoom."""
    page.set_viewport_size(DOUBLE)
    page.wait_for_timeout(STEP_MS)
    widths = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    return [f"zoom: {widths[0]} px in {widths[1]}"] if widths[0] > widths[1] else []


def test_no_page_has_a_serious_fault_dark_or_light_and_none_is_too_wide_at_twice_the_size(
    worked: Site, page: Page, axe: str, shot: Shot
) -> None:
    faults: list[str] = []
    with served(worked.workspace) as url:
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        page.goto(f"{url}/sign-in#{worked.link('adam', 'admin')}")
        page.wait_for_url(f"{url}/dashboard")
        for path, open_it in states():
            page.set_viewport_size(FULL)
            page.goto(f"{url}{path}")
            until(page, LOADED)
            if open_it:
                page.evaluate(open_it)
            page.wait_for_timeout(STEP_MS)
            found = faults_of(page, axe)
            name = path.strip("/").replace("?", "-")
            if not open_it:
                found += overflow_of(page)
                shot(page, f"zoom-{name}")
            faults += [f"{path} {open_it} {line}" for line in found]
    assert not faults, "\n".join(faults)
