"""Vectors of masks, and suggested categories, through their flows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.core.categories import Category, CategoryList
from engine.core.records import Mask, Provenance, Source, Stage
from engine.core.rle import encode
from engine.semantics.suggesting import TooFewLabelsError
from flows.data.ingest import ingest_folder
from flows.semantics.suggesting import known_labels, suggest_labels
from flows.semantics.vectors import make_vectors, read_vectors
from flows.workspace.workspace import Workspace
from storage.catalog import LabelSource, NewLabel, RunKind, Split
from storage.formats.images import write_png

pytestmark = pytest.mark.usefixtures("prefect_server")

SIDE = 96
SHAPES = ("disk", "square", "cross")
IMAGES = 14


def draw(number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """An image with one object of each shape of SHAPES, left to right, and their masks."""
    rng = np.random.default_rng(number)
    image = rng.integers(90, 160, (SIDE, 3 * SIDE, 3), np.uint8)
    masks = []
    for place, shape in enumerate(SHAPES):
        mask = np.zeros(image.shape[:2], np.uint8)
        x, y, size = place * SIDE + int(rng.integers(40, 56)), int(rng.integers(40, 56)), 24
        if shape == "disk":
            cv2.circle(mask, (x, y), size, 1, -1)
        elif shape == "square":
            cv2.rectangle(mask, (x - size, y - size), (x + size, y + size), 1, -1)
        else:
            cv2.line(mask, (x - size, y), (x + size, y), 1, 9)
            cv2.line(mask, (x, y - size), (x, y + size), 1, 9)
        color = rng.integers(0, 256, 3)
        image[mask > 0] = np.clip(color + rng.integers(-10, 10, 3), 0, 255)
        masks.append(mask > 0)
    return image, masks


@pytest.fixture
def shapes(workspace: Workspace, tmp_path: Path) -> list[Mask]:
    """Masks of IMAGES images of the dataset `shapes`, three of each image, in their order."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    drawn = [draw(number) for number in range(IMAGES)]
    for number, (image, _) in enumerate(drawn):
        (folder / f"{number:02d}.png").write_bytes(write_png(image))
    ingest_folder(workspace, "shapes", folder, held_out=0.25)
    dataset = workspace.catalog.datasets.get("shapes")
    run = workspace.catalog.runs.start(
        "drawn", RunKind.ASSISTED_MANUAL, dataset_id=dataset.id, code_version="test"
    )
    origin = Provenance(
        dataset="shapes",
        stage=Stage.ASSISTED_MANUAL,
        round=0,
        run_id=run.id,
        shard=0,
        model="lite",
        source=Source.ANNOTATOR,
        annotator="Ada",
    )
    images = workspace.catalog.images.get_many(list(workspace.catalog.images.ids(dataset.id)))
    masks = [
        origin.mask(image.id, place, encode(mask))
        for image in sorted(images, key=lambda one: one.file_name)
        for place, mask in enumerate(drawn[int(Path(image.file_name).stem)][1])
    ]
    workspace.masks.commit(masks, run_id=run.id, shard=0)
    names = [Category(id=number, name=name) for number, name in enumerate(SHAPES, 1)]
    categories = CategoryList(categories=tuple(names))
    workspace.catalog.categories.set(dataset.id, categories, expected_version=0)
    return masks


def label(workspace: Workspace, masks: list[Mask]) -> None:
    """Label masks with their true shapes, as a person does."""
    dataset = workspace.catalog.datasets.get("shapes")
    labels = [
        NewLabel(
            mask_id=mask.mask_id,
            image_id=mask.image_id,
            category_id=int(mask.mask_id.rpartition("/")[2]) + 1,
            source=LabelSource.ANNOTATOR,
        )
        for mask in masks
    ]
    workspace.catalog.labels.add_many(dataset.id, labels)


def test_each_mask_gets_one_vector_and_a_second_run_makes_only_those_of_new_masks(
    workspace: Workspace, shapes: list[Mask]
) -> None:
    dataset = workspace.catalog.datasets.get("shapes")
    first = make_vectors(str(workspace.settings.root), "shapes")
    again = make_vectors(str(workspace.settings.root), "shapes")
    assert (first["images"], first["masks"], again["masks"]) == (IMAGES, 3 * IMAGES, 0)
    blocks = read_vectors(workspace, dataset, first["encoder"])
    ids = [one for block in blocks for one in block.mask_ids.to_pylist()]
    assert sorted(ids) == sorted(mask.mask_id for mask in shapes)
    lengths = np.concatenate([np.linalg.norm(b.vectors_ND.astype(float), axis=1) for b in blocks])
    assert lengths == pytest.approx(1, abs=0.01)


def test_labels_of_a_few_masks_suggest_those_of_the_others_and_confident_ones_are_written(
    workspace: Workspace, shapes: list[Mask]
) -> None:
    root = str(workspace.settings.root)
    dataset = workspace.catalog.datasets.get("shapes")
    held_out = set(workspace.catalog.images.ids(dataset.id, split=Split.HELD_OUT))
    train = [mask for mask in shapes if mask.image_id not in held_out]
    label(workspace, train[:24])
    found = suggest_labels(root, "shapes", precision=0.8, confirm=True)
    assert found["labels"] == 24
    assert found["masks"] == 3 * IMAGES - 24
    assert found["confirmed"] == found["sure"] >= 9
    known = known_labels(workspace, dataset)
    given = {mask: who for mask, who in known.source.items() if who == LabelSource.MODEL}
    right = [known.category[mask] == int(mask.rpartition("/")[2]) + 1 for mask in given]
    assert len(right) == found["confirmed"]
    assert np.mean(right) >= 0.8

    same = suggest_labels(root, "shapes", precision=0.8)
    assert same["suggester"] == found["suggester"]
    assert same["reason"] == "no new labels"
    label(workspace, train[24:27])  # a person overrules the model
    newer = suggest_labels(root, "shapes", precision=0.8)
    assert newer["suggester"] != found["suggester"]
    assert newer["masks"] == found["masks"] - 3


def test_held_out_images_teach_nothing(workspace: Workspace, shapes: list[Mask]) -> None:
    dataset = workspace.catalog.datasets.get("shapes")
    held_out = set(workspace.catalog.images.ids(dataset.id, split=Split.HELD_OUT))
    label(workspace, [mask for mask in shapes if mask.image_id in held_out])
    with pytest.raises(TooFewLabelsError, match="0 labelled masks of 0 categories"):
        suggest_labels(str(workspace.settings.root), "shapes")
