"""Vectors of masks, suggested categories and search, through their flows and commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.semantics.clip import fresh_clip, load_clip, save_clip
from engine.semantics.suggesting import TooFewLabelsError
from flows.cli.main import app
from flows.data.annotations import AnnotationsAs
from flows.data.ingest import ingest_folder
from flows.semantics.find import FindError, find_on_page
from flows.semantics.known_labels import known_labels
from flows.semantics.suggesting import suggest_labels
from flows.semantics.task_suggestions import suggest_for_task
from flows.semantics.vectors import make_vectors, read_vectors
from flows.workspace.workspace import Workspace
from storage.catalog import LabelSource, NewLabel
from tests.labelled_folders import true_shapes, write_pictures
from tests.small_clip import CONFIG

pytestmark = pytest.mark.usefixtures("prefect_server")


def ingest(workspace: Workspace, folder: Path, *, held_out: float = 0.0) -> None:
    ingest_folder(
        workspace,
        "shapes",
        folder,
        folder / "instances.json",
        held_out=held_out,
        annotations_as=AnnotationsAs.MASKS,
    )


def shape_of(workspace: Workspace, *folders: Path) -> dict[str, str]:
    """The true shape of each mask, by mask id."""
    known = {name: shape for folder in folders for name, shape in true_shapes(folder).items()}
    masks = list(workspace.masks.masks(dataset="shapes", current_only=True))
    names = {
        i.id: i.file_name for i in workspace.catalog.images.get_many([m.image_id for m in masks])
    }
    return {m.mask_id: known[f"{names[m.image_id]} {m.rle.counts.decode()}"] for m in masks}


def run(workspace: Workspace, *words: str) -> Any:
    """The JSON of a command."""
    root = {"DATAENGINE_WORKSPACE": str(workspace.settings.root)}
    result = CliRunner().invoke(app, [*words, "--json"], env=root, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.strip().splitlines()[-1])


def test_each_mask_gets_one_vector_and_a_second_run_makes_only_those_of_new_masks(
    workspace: Workspace, tmp_path: Path
) -> None:
    root = str(workspace.settings.root)
    ingest(workspace, write_pictures(tmp_path / "first", range(3)))
    first, again = make_vectors(root, "shapes"), make_vectors(root, "shapes")
    ingest(workspace, write_pictures(tmp_path / "second", range(3, 5)))
    later = make_vectors(root, "shapes")
    assert (first["images"], again["masks"], later["images"]) == (3, 0, 2)
    dataset = workspace.catalog.datasets.get("shapes")
    blocks = read_vectors(workspace, dataset, first["encoder"])
    ids = [one for block in blocks for one in block.mask_ids.to_pylist()]
    assert sorted(ids) == sorted(mask.mask_id for mask in workspace.masks.masks())
    lengths = np.concatenate([np.linalg.norm(b.vectors_ND.astype(float), axis=1) for b in blocks])
    assert lengths == pytest.approx(1, abs=0.01)


def test_labels_of_some_masks_suggest_those_of_others_and_confident_ones_are_written(
    workspace: Workspace, tmp_path: Path
) -> None:
    root = str(workspace.settings.root)
    named = write_pictures(tmp_path / "named", range(12))
    others = write_pictures(tmp_path / "others", range(100, 108), named=False)
    for folder in (named, others):
        ingest(workspace, folder)
    truth = shape_of(workspace, named, others)
    found = suggest_labels(root, "shapes", precision=0.8, confirm=True)
    assert found["categories"] == 3
    assert found["masks"] == len(truth) - found["labels"]
    assert found["confirmed"] == found["confident"] >= 8

    dataset = workspace.catalog.datasets.get("shapes")
    names = workspace.catalog.categories.current(dataset.id).categories.names
    known = known_labels(workspace, dataset)
    by_model = [one for one, who in known.source.items() if who == LabelSource.MODEL]
    right = [names[known.category[one]] == truth[one] for one in by_model]
    assert len(right) == found["confirmed"]
    assert np.mean(right) >= 0.8

    assert suggest_labels(root, "shapes", precision=0.8)["reason"] == "no new labels"
    wrong = by_model[0]  # a person overrules the model
    [image_id] = [m.image_id for m in workspace.masks.masks() if m.mask_id == wrong]
    label = NewLabel(
        mask_id=wrong, image_id=image_id, category_id=None, source=LabelSource.ANNOTATOR
    )
    workspace.catalog.labels.add_many(dataset.id, [label])
    newer = suggest_labels(root, "shapes", precision=0.8, confirm=True)
    assert newer["suggester"] != found["suggester"]
    assert known_labels(workspace, dataset).category[wrong] == 0
    assert (
        run(workspace, "labels", "rollback", "--dataset", "shapes")["suggester"]
        == found["suggester"]
    )

    masks = list(workspace.masks.masks(image_ids=[image_id], current_only=True))
    fresh = [replace(mask, mask_id=f"new/{mask.mask_id}") for mask in masks]  # not in the table
    of_task = suggest_for_task(workspace, dataset.id, image_id, [*masks, *fresh])
    assert set(of_task) == {mask.mask_id for mask in (*masks, *fresh)}
    for mask, same in zip(masks, fresh, strict=True):
        assert of_task[mask.mask_id] == pytest.approx(of_task[same.mask_id], abs=0.02)

    status = run(workspace, "labels", "status", "--dataset", "shapes")
    assert status["masks"] == len(truth)
    assert status["vectors"] == {found["encoder"]: len(truth)}
    first = next(iter(truth))
    like = run(workspace, "find", "--like", first, "--dataset", "shapes", "--count", "5")["masks"]
    assert len(like) == 5
    assert first not in {one["mask_id"] for one in like}
    sheet = tmp_path / "stars.png"
    stars = run(workspace, "find", "star", "--dataset", "shapes", "--sheet", str(sheet))["masks"]
    assert np.mean([truth[one["mask_id"]] == "star" for one in stars]) >= 0.8
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_the_page_searches_by_categories_and_by_words_if_masks_have_vectors_of_a_clip(
    workspace: Workspace, tmp_path: Path
) -> None:
    root = str(workspace.settings.root)
    ingest(workspace, write_pictures(tmp_path / "named", range(3)))
    dataset = workspace.catalog.datasets.get("shapes")
    circles = find_on_page(workspace, dataset, "Circle", None, 10)
    names = workspace.catalog.categories.current(dataset.id).categories.names
    category = known_labels(workspace, dataset).category
    assert {names[category[one.mask_id]] for one in circles} == {"circle"}
    with pytest.raises(FindError, match="no category of shapes is named 'a red thing'"):
        find_on_page(workspace, dataset, "a red thing", None, 10)
    with pytest.raises(FindError, match="labels vectors --dataset shapes"):
        find_on_page(workspace, dataset, None, circles[0].mask_id, 10)

    folder = tmp_path / "clip"
    save_clip(fresh_clip(CONFIG).model, CONFIG, folder)
    made = make_vectors(root, "shapes", f"clip:{folder}")
    found = find_on_page(workspace, dataset, "a red thing", None, 4)
    (query,) = load_clip(f"clip:{folder}").encode_texts(["a red thing"])
    blocks = read_vectors(workspace, dataset, made["encoder"])
    vectors = np.concatenate([block.vectors_ND for block in blocks])
    scores = vectors.astype(float) @ query.astype(float)
    assert [one.score for one in found] == pytest.approx(sorted(scores)[::-1][:4], abs=0.01)
    alike = find_on_page(workspace, dataset, None, found[0].mask_id, 100)
    assert len(alike) == len(vectors) - 1


def test_the_suggester_is_scored_on_held_out_images_which_teach_it_nothing(
    workspace: Workspace, tmp_path: Path
) -> None:
    root = str(workspace.settings.root)
    held_out = write_pictures(tmp_path / "held", range(200, 206))
    ingest(workspace, held_out, held_out=1.0)
    with pytest.raises(TooFewLabelsError, match="0 labelled masks of 0 categories"):
        suggest_labels(root, "shapes")
    ingest(workspace, write_pictures(tmp_path / "named", range(12)))
    assert suggest_labels(root, "shapes")["images"] <= 12
    scores = run(workspace, "labels", "evaluate", "--dataset", "shapes")
    assert scores["images"] == 6
    assert set(scores["categories"]) == {"circle", "star", "cross"}
    assert scores["accuracy"] > 0.6
