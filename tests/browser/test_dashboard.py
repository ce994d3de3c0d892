"""Signing in, and the dashboard, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from engine.annotation.client import Client
from flows.loop.data_engine import LoopPlan
from flows.stages.rounds import open_round
from storage.catalog import NewImage, TaskKind
from tests.annotation.site import Site, served
from tests.annotation.test_dashboard import released
from tests.annotation.test_tasks import new_mask
from tests.browser.conftest import Shot
from tests.browser.driver import until

pytestmark = pytest.mark.slow


def test_a_link_signs_in_and_leads_to_where_the_role_works(
    site: Site, page: Page, shot: Shot
) -> None:
    site.annotate()
    with served(site.workspace) as url:
        token = site.link("ada")
        page.goto(f"{url}/sign-in#{token}")
        page.wait_for_url(f"{url}/annotate")
        until(page, "document.getElementById('header').innerText.includes('ada')")
        assert "Dashboard" not in page.locator("#header").inner_text()
        page.context.clear_cookies()
        page.goto(f"{url}/annotate")
        page.wait_for_url(f"{url}/sign-in*")
        shot(page, "sign-in")
        page.goto(f"{url}/sign-in#{token}")
        until(page, "document.body.innerText.includes('It was already used')")
        reviewer = site.link("rita", "reviewer")
        page.goto(f"{url}/sign-in#{reviewer}")
        page.wait_for_url(f"{url}/review")
        assert token not in page.evaluate("location.href + document.cookie")


def test_the_dashboard_is_live_and_an_action_shows_what_it_will_do(
    site: Site, url: str, page: Page, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    command = "status"

    def note(folder: object, job: object, root: object) -> None:
        from flows.page.background_commands import start_command

        started.append(job.arguments)  # type: ignore[attr-defined]
        quick = type(job)(**{**_fields(job), "arguments": [command]})
        start_command(folder, quick, root)  # type: ignore[arg-type]

    monkeypatch.setattr("flows.page.actions.start_command", note)
    page.goto(f"{url}/dashboard")
    until(page, "document.getElementById('live').textContent.trim() === 'live'")
    site.annotate()
    until(page, "document.querySelector('[data-kind=annotate]')?.innerText.includes('3')")
    with Client(url) as client:
        task = client.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        client.submit(task, [new_mask(mask_HW=site.masks_of(0)[0])], seconds=12)
    until(page, "document.querySelector('[data-kind=annotate]').innerText.includes('1 done')")
    page.wait_for_timeout(500)
    shot(page, "dashboard")

    page.locator("[data-action=generate]").click()
    until(page, "document.getElementById('plan-text').textContent.includes('3 of the 3 images')")
    assert "dataengine generate --only-new --dataset d" in page.locator("dialog[open]").inner_text()
    shot(page, "dashboard-action")
    page.locator("#confirm").click()
    until(page, "document.querySelector('#jobs [data-state=done]') !== null", 60)
    assert started == [["generate", "--only-new", "--dataset", "d"]]
    assert "Generate masks" in page.locator("#jobs summary").inner_text()

    command = "none such"  # fails
    page.locator("[data-action=retrain]").click()
    until(page, "!document.getElementById('confirm').disabled")
    page.locator("#confirm").click()
    until(page, "!document.getElementById('failures').hidden", 60)
    assert page.locator("#failures strong").inner_text().strip() == "Retrain now failed."
    assert "No such command 'none such'" in page.locator("#failures").inner_text()
    page.wait_for_timeout(200)
    shot(page, "dashboard-failed")
    page.goto(f"{url}/work")
    page.locator("nav .badge-bad", has_text="1 job failed").click()  # told on every page
    page.wait_for_url(f"{url}/dashboard")
    page.locator("#jobs [data-state=failed] button", has_text="Try again").click()
    until(page, "document.querySelectorAll('#jobs [data-state=failed]').length === 2", 60)
    page.wait_for_timeout(200)
    page.locator("#failures button").click()
    page.reload()
    until(page, "document.querySelector('#jobs [data-state=failed]') !== null")
    assert page.locator("#failures").is_hidden()  # reported once


def test_the_choice_of_a_model_is_offered_until_it_is_dismissed(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    notice = page.locator("#model-choice")
    page.goto(f"{url}/dashboard")
    notice.wait_for(state="visible")
    assert "dataengine models pull mobile_sam --promote" in notice.inner_text()
    assert "dataengine models pull vit_h --promote" in notice.inner_text()
    shot(page, "dashboard-model-choice")
    notice.locator("button").click()
    assert notice.is_hidden()
    page.reload()
    until(page, "['ready', 'empty'].includes(document.body.dataset.state)")
    assert notice.is_hidden()
    page.evaluate("localStorage.clear()")
    page.reload()
    notice.wait_for(state="visible")  # it was the dismissal that hid it


def test_the_dashboard_says_why_images_were_chosen_and_how_many_repeat_others(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    catalog = site.workspace.catalog
    seen = catalog.images.get(site.image_ids[0])
    repeat = NewImage(
        sha256="0" * 64,
        key=seen.key,
        file_name="repeat.png",
        height=seen.height,
        width=seen.width,
        perceptual_hash="0f" * 8,
        near_sha256=seen.sha256,
    )
    catalog.images.add_many(site.dataset_id, [repeat])
    plan = LoopPlan(images_per_round=9, annotator="people", choice="diversity").rounds()
    loop = catalog.loops.start_or_resume(site.dataset_id, plan)
    open_round(site.workspace, catalog.rounds.for_loop(loop.id)[0])
    page.goto(f"{url}/dashboard")
    until(page, "document.querySelector('.chosen') !== null")
    told = page.locator(".loop").inner_text()
    assert "1 near-duplicate, not annotated twice" in told
    assert "3 images: those that look least like the annotated images" in told
    assert "1 near-duplicate is skipped" in told
    shot(page, "dashboard-chosen")
    page.locator("[data-action=round]").click()
    until(page, "!document.getElementById('confirm').disabled")
    assert page.locator("#field-choice").input_value() == "diversity"


def test_reviewers_are_not_offered_models(site: Site, page: Page) -> None:
    with served(site.workspace) as url:
        page.goto(f"{url}/sign-in#{site.link('rita', 'reviewer')}")
        page.wait_for_url(f"{url}/review")
        page.goto(f"{url}/dashboard")
        until(page, "['ready', 'empty'].includes(document.body.dataset.state)")
        assert page.locator("#model-choice").is_hidden()


def _fields(job: object) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(job)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("size", [(1280, 720), (3840, 2160)])
@pytest.mark.parametrize("path", ["/annotate", "/review", "/dashboard"])
def test_pages_fit_their_window(
    site: Site, url: str, page: Page, size: tuple[int, int], path: str
) -> None:
    site.annotate()
    site.review()
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(url + path)
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, [role=button], canvas[tabindex]')]"
        ".filter((e) => e.offsetParent)"
        ".filter((e) => !(e.innerText || e.getAttribute('aria-label') || e.title))"
        ".map((e) => e.outerHTML)"
    )
    assert unnamed == []


def test_several_datasets_are_compared_in_one_table_with_links_to_their_releases(
    site: Site, url: str, page: Page, shot: Shot
) -> None:
    site.review()
    with Client(url) as client:
        site.annotate()
        task = client.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        client.submit(task, [new_mask(mask_HW=site.masks_of(0)[0])], seconds=12)
    released(site, "d-1")
    site.workspace.catalog.datasets.get_or_create("nuclei")
    page.goto(f"{url}/dashboard")
    table = page.locator("#datasets")
    table.wait_for()
    row = table.locator("tbody tr").first.inner_text().split("\t")
    assert row[:3] == ["d", "3", "1"]
    assert row[5] == "9"
    assert row[8] == "1"
    shot(page, "datasets")
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(200)
    shot(page, "datasets-light")
    with page.expect_download() as download:
        table.locator("a", has_text="COCO").click()
    assert download.value.suggested_filename == "d-1-instances.json"
    with page.expect_popup() as popup:
        table.locator("a", has_text="Report").click()
    assert popup.value.locator("body").inner_text() == "report.html"
