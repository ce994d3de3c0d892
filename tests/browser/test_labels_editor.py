"""Labels in the editor and in review, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import Page, expect

from engine.annotation.client import Client
from engine.core.records import Source
from engine.semantics.encoders import MaskEncoder
from flows.encoders.load import mask_encoder
from flows.semantics.known_labels import known_labels
from flows.semantics.learning import Wanted, refreshed
from flows.semantics.sources import LearnFrom
from flows.semantics.vectors import read_vectors, vector_files
from flows.workspace.workspace import Workspace
from storage.catalog import AnnotatorKind, Dataset, Label, LabelSource, NewTask, RunKind, TaskKind
from storage.vectors import MaskVectors
from tests.annotation.site import served
from tests.annotation.test_browse_commands import wait_for
from tests.browser import driver
from tests.browser.conftest import Shot
from tests.flows.conftest import make_workspace
from tests.flows.test_suggesting import ingest
from tests.labelled_folders import write_pictures

pytestmark = pytest.mark.slow

NAMED, OTHERS = 10, 2
CROSS = (31, 101)
"""A pixel of the third mask of the first of OTHERS."""
CHIP = 'document.querySelector(".label-chip .label-name").textContent'


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose masks are labelled on NAMED pictures, and suggested on OTHERS."""
    folder = tmp_path_factory.mktemp("labels-editor")
    made = make_workspace(folder / "ws")
    for name, seeds in (("named", range(NAMED)), ("others", range(100, 100 + OTHERS))):
        ingest(made, write_pictures(folder / name, seeds, named=name == "named"))
    dataset, encoder = made.catalog.datasets.get("shapes"), mask_encoder(made, "lite")
    add_vectors(made, dataset, encoder)
    wanted = Wanted(made, dataset, "lite", encoder.version, 0.9, LearnFrom.LABELS, "lite")
    refreshed(wanted, read_vectors(made, dataset, encoder.version), known_labels(made, dataset))
    return made


def add_vectors(workspace: Workspace, dataset: Dataset, encoder: MaskEncoder) -> None:
    """As `labels vectors`, without a server of Prefect."""
    config = {"name": "lite", "encoder": encoder.version}
    run = workspace.catalog.runs.start(
        "vectors", RunKind.VECTORS, dataset_id=dataset.id, model=encoder.version, config=config
    )
    ids, images, vectors = [], [], []
    for image in workspace.catalog.images.get_many(list(workspace.catalog.images.ids(dataset.id))):
        masks = list(workspace.masks.masks(image_ids=[image.id]))
        ids += [mask.mask_id for mask in masks]
        images += [image.id] * len(masks)
        vectors.append(encoder.encode(workspace.pixels(image), [mask.rle for mask in masks]))
    made = MaskVectors(
        pa.array(ids, pa.string()), np.array(images, np.int64), np.concatenate(vectors)
    )
    vector_files(workspace).write(run.id, 0, made)
    workspace.catalog.runs.finish(run.id)


@pytest.fixture
def shapes_url(workspace: Workspace) -> Iterator[str]:
    with served(workspace, local=True) as address:
        yield address


def other_images(workspace: Workspace) -> list[int]:
    """The pictures whose masks have no label."""
    dataset = workspace.catalog.datasets.get("shapes")
    return sorted(workspace.catalog.images.ids(dataset.id))[-OTHERS:]


def labels_on(workspace: Workspace, image_id: int, count: int) -> list[Label]:
    """The labels of an image, once there are this many."""
    labels = workspace.catalog.labels
    return wait_for(lambda: list(labels.of_images([image_id]).values()), count)


def send(url: str, command: str, **chosen: object) -> None:
    with Client(url) as client:
        client._send("POST", f"/api/browse/{command}", {"dataset": "shapes", **chosen})


def until_drawn(page: Page) -> None:
    """Wait for the pictures of the cards in sight, for the screenshot's sake only."""
    page.wait_for_timeout(800)


def pick(page: Page, text: str) -> None:
    page.keyboard.press("t")
    page.get_by_role("combobox", name="Category").fill(text)
    page.keyboard.press("Enter")


def test_an_annotator_labels_masks_by_keys_and_by_a_list(
    workspace: Workspace, shapes_url: str, page: Page, shot: Shot
) -> None:
    image = other_images(workspace)[0]
    send(shapes_url, "annotate", image_ids=[image])
    driver.open_task(page, shapes_url)
    suggested = page.locator(".mask-row .label-name.suggested")
    suggested.first.wait_for()
    count = suggested.count()
    assert count > 0
    page.keyboard.press("Tab")
    page.locator(".label-chip .suggested").wait_for()
    shot(page, "labels-editor-suggested")
    page.keyboard.press("a")
    page.locator(".mask-row.is-selected .label-name:not(.suggested)").wait_for()
    assert suggested.count() == count - 1
    page.keyboard.press("Control+z")
    driver.until(page, f"document.querySelectorAll('.mask-row .suggested').length === {count}")
    page.keyboard.press("a")
    page.keyboard.press("Escape")

    # keys: circle 1, star 2, cross 3; the last label is that of the next new mask
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Delete")
    page.keyboard.press("3")
    driver.until(page, f"{CHIP} === 'cross'")
    driver.click(page, *CROSS)
    page.keyboard.press("Enter")
    assert driver.finished(page)[0]["category_id"] == 3
    driver.click(page, 64, 64)
    driver.until(page, f"{CHIP} === 'cross'")
    pick(page, "ci")
    driver.until(page, f"{CHIP} === 'circle'")
    page.keyboard.press("Enter")
    driver.saved(page)
    page.keyboard.press("Tab")
    shot(page, "labels-editor")
    page.reload()
    driver.settled(page)
    assert [mask["category_id"] for mask in driver.finished(page)] == [3, 1]
    page.keyboard.press("?")
    page.locator("#keys-dialog").wait_for()
    assert page.locator("#keys-dialog", has_text="star").is_visible()
    shot(page, "labels-editor-keys")
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    page.locator("#category-picker").wait_for()
    shot(page, "labels-editor-list")
    page.keyboard.press("Escape")
    page.get_by_test_id("submit").click()
    page.get_by_text("Submitted, with 2 new masks.").wait_for()

    labels = labels_on(workspace, image, 3)
    assert {label.source for label in labels} == {LabelSource.ANNOTATOR}
    named = sorted(label.category_id or 0 for label in labels)
    assert len(named) == 3
    assert {1, 3} <= set(named)


def test_a_reviewer_confirms_one_label_and_picks_another(
    workspace: Workspace, shapes_url: str, page: Page, shot: Shot
) -> None:
    image = other_images(workspace)[1]
    masks = [mask.mask_id for mask in workspace.masks.masks(image_ids=[image])]
    assert len(masks) > 1, "the pictures are always the same"
    send(shapes_url, "review", mask_ids=masks)
    page.goto(f"{shapes_url}/review")
    driver.settled(page)
    expect(page.locator(".mask-card .suggested")).to_have_count(len(masks))
    shot(page, "labels-review-suggested")
    page.keyboard.press(".")
    page.locator(".mask-card .label-given").first.wait_for()
    page.keyboard.press("u")
    driver.until(page, "!document.querySelector('.label-given')")
    page.keyboard.press(".")
    page.keyboard.press("a")
    pick(page, "none")
    page.get_by_text("none of these").first.wait_for()
    page.keyboard.press("3")
    assert page.locator(".label-given").count() == 2
    page.keyboard.press("Enter")
    page.locator("#single-facts .label-given").wait_for()
    shot(page, "labels-review")
    page.keyboard.press("Shift+a")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Sent. Thank you!").wait_for()

    labels = {label.mask_id: label for label in labels_on(workspace, image, 2)}
    assert set(labels) == set(masks[:2])
    assert labels[masks[1]].category_id == 3
    assert all(label.seconds is not None for label in labels.values())


def test_a_reviewer_decides_where_people_disagree(
    workspace: Workspace, shapes_url: str, page: Page, shot: Shot
) -> None:
    image, catalog = other_images(workspace)[1], workspace.catalog
    (mask, *_) = [mask.mask_id for mask in workspace.masks.masks(image_ids=[image])]
    dataset, kind = catalog.datasets.get("shapes"), AnnotatorKind.SIMULATED
    people = [catalog.annotators.get_or_create(name, kind=kind).id for name in ("ada", "bob")]
    model = workspace.current_model().version
    run = catalog.runs.start("dispute", RunKind.REVIEW, dataset_id=dataset.id, model=model)
    said = {mask: [(people[0], 1), (people[1], 2)]}
    task = NewTask(
        dataset_id=dataset.id,
        image_id=image,
        kind=TaskKind.REVIEW,
        run_id=run.id,
        payload={"mask_ids": [mask], "disputed": said, "note": "People disagree about a label."},
    )
    workspace.queue.add([task])
    page.goto(f"{shapes_url}/review")
    driver.settled(page)
    disputed = page.locator(".mask-card .label-disputed")
    assert "ada" in disputed.inner_text()
    assert "bob" in disputed.inner_text()
    shot(page, "labels-disputed")
    page.keyboard.press("a")
    page.keyboard.press("Control+Enter")
    page.get_by_text("People disagree about the label of this mask").wait_for()
    page.keyboard.press("2")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Sent. Thank you!").wait_for()
    wait_for(lambda: [one for one in catalog.labels.history(image, mask) if one.task_id], 1)
    page.goto(f"{shapes_url}/browse?dataset=shapes&image={image}")
    page.get_by_text("Labelled star by local", exact=False).first.wait_for()


def test_words_and_likeness_find_masks_in_the_grid(
    workspace: Workspace, shapes_url: str, page: Page, shot: Shot
) -> None:
    dataset = workspace.catalog.datasets.get("shapes")
    stars = workspace.catalog.categories.current(dataset.id).categories.named("star")
    assert stars is not None
    labelled = workspace.catalog.labels.counts(dataset.id)[stars.id]
    page.goto(f"{shapes_url}/browse?dataset=shapes")
    driver.settled(page)
    page.get_by_role("searchbox", name="Search for masks").fill("Star")
    page.keyboard.press("Enter")
    page.get_by_text("Search for “Star”").wait_for()
    driver.until(page, "document.querySelectorAll('.card').length > 0")
    driver.settled(page)
    first = page.locator(".card .name").all_inner_texts()[: min(labelled, 5)]
    assert first == ["star"] * len(first), "labelled masks come first"
    page.locator(".card .pick input").first.click()
    until_drawn(page)
    shot(page, "labels-search")
    page.get_by_role("button", name="Find similar").click()
    page.get_by_text("Search for masks like one that you chose").wait_for()
    driver.settled(page)
    found = page.locator("#total").inner_text()
    masks = list(workspace.masks.masks(dataset="shapes", current_only=True))
    total, alike = len(masks), sum(mask.source == Source.IMPORTED for mask in masks) - 1
    assert found == f"{alike} masks", "all others with vectors, the most similar first"
    until_drawn(page)
    shot(page, "labels-similar")
    page.get_by_role("button", name="Select all").click()
    page.get_by_text(f"{alike} masks selected").wait_for()
    page.get_by_role("button", name="End the search").click()
    driver.until(page, f"document.getElementById('total').textContent === '{total} masks'")
    page.get_by_role("searchbox", name="Search for masks").fill("lorry")
    page.keyboard.press("Enter")
    page.get_by_text("no category of shapes is named 'lorry'", exact=False).wait_for()
    page.goto(f"{shapes_url}/dashboard")
    page.locator("#categories", has_text="star").wait_for()
    page.locator("#categories").scroll_into_view_if_needed()
    shot(page, "labels-dashboard")
