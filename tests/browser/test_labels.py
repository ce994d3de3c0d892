"""A team's way from imported categories to a labelled dataset, in a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from pycocotools.coco import COCO
from typer.testing import CliRunner

from flows.cli.main import app
from flows.prefect_api import temporary_server
from flows.workspace.workspace import Workspace
from storage.catalog import LabelSource
from tests.annotation.site import served
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.browser.driver import until
from tests.flows.conftest import TOML, make_workspace
from tests.labelled_folders import WANTED, true_shapes, write_pictures

pytestmark = pytest.mark.slow

NAMED, OTHERS = 20, 100


@pytest.fixture(scope="module")
def suggested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Path, Any]:
    """A workspace with the labels of NAMED pictures and suggestions for OTHERS, the folder of both,
    and what `labels suggest` said. Flows must end before the browser starts its event loop."""
    folder = tmp_path_factory.mktemp("labels")
    # one shard: Prefect sends an event of each task's states when the process ends
    toml = TOML.replace("shard_images = 2", "shard_images = 1000")
    workspace = make_workspace(folder / "ws", toml)
    write_pictures(folder / "named", range(NAMED))
    write_pictures(folder / "others", range(100, 100 + OTHERS), named=False)
    with temporary_server.server(folder):
        ingest(workspace, folder / "named")
        ingest(workspace, folder / "others")
        words = ("labels", "suggest", "--dataset", "shapes", "--precision", "0.9")
        return workspace, folder, run(workspace, *words)


def run(workspace: Workspace, *words: str) -> Any:
    """The JSON of a command."""
    root = {"DATAENGINE_WORKSPACE": str(workspace.settings.root)}
    result = CliRunner().invoke(app, [*words, "--json"], env=root, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.strip().splitlines()[-1])


def ingest(workspace: Workspace, folder: Path) -> None:
    coco = ("--coco", str(folder / "instances.json"), "--annotations-as", "masks")
    run(workspace, "ingest", str(folder), *coco, "--dataset", "shapes", "--held-out", "0")


def total(page: Page, text: str) -> None:
    until(page, f"document.getElementById('total').textContent === '{text}'")


def test_a_few_labels_become_those_of_all_masks(
    suggested: tuple[Workspace, Path, Any], page: Page, shot: Shot
) -> None:
    workspace, folder, found = suggested
    assert found["categories"] == len(WANTED)

    with served(workspace, local=True) as url:
        query = "label=unlabelled&suggested=star&sort=probability&descending=true"
        page.goto(f"{url}/browse?dataset=shapes&{query}")
        driver.settled(page)
        page.locator(".card .suggested").first.wait_for()
        stars = int(page.locator("#total").inner_text().split()[0])
        shot(page, "labels-suggested")
        page.locator(".card .pick input").nth(0).click()
        page.locator(".card .pick input").nth(5).click(modifiers=["Shift"])
        assert page.locator("#commands strong").inner_text() == "6 masks selected"
        page.set_viewport_size({"width": 1000, "height": 560})
        shot(page, "labels-chosen")
        page.keyboard.press(".")
        page.get_by_text("6 masks labelled as suggested.").wait_for()
        assert page.locator(".card .name:not(.suggested)").count() == 6

        page.get_by_role("button", name="Select all").click()
        page.get_by_role("button", name="Confirm suggestions").click()
        page.get_by_text(f"{stars - 6} masks labelled as suggested.").wait_for()
        page.goto(f"{url}/browse?dataset=shapes&label=unlabelled")
        driver.settled(page)
        page.get_by_role("button", name="Select all").click()
        page.get_by_role("combobox", name="Category").fill("Circle")
        page.get_by_role("combobox", name="Category").press("Enter")
        page.get_by_text("labelled “circle”").wait_for()
        page.goto(f"{url}/browse?dataset=shapes&label=star")
        driver.settled(page)
        shot(page, "labels-grid")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 480, "height": 800})
        shot(page, "labels-grid-narrow")

    dataset = workspace.catalog.datasets.get("shapes")
    people = workspace.catalog.labels.counts(dataset.id, source=LabelSource.ANNOTATOR)
    assert sum(people.values()) == found["masks"]

    _check_export(workspace, folder, found)


def _check_export(workspace: Workspace, folder: Path, found: dict[str, Any]) -> None:
    """Release and export, and compare the file's categories, as pycocotools reads them, with what
    the pictures show."""
    release = [sys.executable, "-m", "flows.cli.main", "release", "first", "--dataset", "shapes"]
    subprocess.run(release, cwd=workspace.settings.root, check=True)
    run(workspace, "export", "first", "--out", str(folder / "out"))
    [path] = (folder / "out").rglob("instances.json")
    exported = COCO(str(path))
    names = {row["id"]: row["name"] for row in exported.loadCats(exported.getCatIds())}
    assert set(WANTED) <= set(names.values())
    named = true_shapes(folder / "named")
    truth = named | true_shapes(folder / "others")
    files = {image["id"]: image["file_name"] for image in exported.loadImgs(exported.getImgIds())}
    rows = exported.loadAnns(exported.getAnnIds())
    assert len(rows) == found["masks"] + found["labels"]
    said = {
        f"{Path(files[row['image_id']]).name} {row['segmentation']['counts']}": names[
            row["category_id"]
        ]
        for row in rows
    }
    first = {key: shape for key, shape in named.items() if shape in WANTED}
    assert {key: said[key] for key in first} == first
    right = [said[key] == truth[key] for key in said if truth[key] == "star"]
    assert sum(right) >= 0.8 * len(right)
