"""`generate --text`: masks of asked words only, with labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.core.records import Source, Stage
from engine.core.rle import iou_matrix
from flows.cli.main import app
from flows.data.ingest import ingest_folder
from flows.labels.current import labels_of
from flows.loop.data_engine import data_engine
from flows.workspace.workspace import Workspace
from storage.catalog import LabelSource, PlannedRound, RunKind
from storage.mask_words import WordFiles
from tests.flows.conftest import make_workspace
from tests.flows.test_suggesting import run
from tests.labelled_folders import write_pictures
from tests.labelled_shapes import draw_picture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server", "one_thread")]

TOML = """
shard_images = 2
[generator]
points_per_side = 8
crop_layers = 0
[annotator]
max_clicks = 2
max_objects = 2
"""
SEEDS = (7006, 7049, 7059, 7060)
"""Of pictures with two stars and a square each."""


@pytest.fixture
def shapes(tmp_path: Path) -> Workspace:
    """Pictures, and their shapes as categories, without the squares."""
    workspace = make_workspace(tmp_path / "ws", TOML)
    folder = write_pictures(tmp_path / "in", SEEDS)
    ingest_folder(workspace, "shapes", folder, None)
    (tmp_path / "names.yaml").write_text("- circle\n- star\n- triangle\n- cross\n")
    run(workspace, "labels", "set", str(tmp_path / "names.yaml"), "--dataset", "shapes")
    return workspace


def true_names(workspace: Workspace) -> dict[str, str]:
    """The shape that a mask covers, by the id of each automatic mask that covers one."""
    found = {}
    for image in workspace.catalog.images.each(workspace.catalog.datasets.get("shapes").id):
        things = draw_picture(int(Path(image.file_name).stem)).things
        masks = list(workspace.masks.masks(image_ids=[image.id]))
        overlap = iou_matrix([mask.rle for mask in masks], [thing.rle for thing in things])
        for row, mask in enumerate(masks):
            if overlap[row].max() >= 0.7:
                found[mask.mask_id] = things[int(overlap[row].argmax())].shape
    return found


def test_masks_of_asked_words_are_kept_and_labelled_the_others_counted_and_stage_2_begins_with_them(
    shapes: Workspace, small_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--dataset", "shapes", "--text", "star, square", "--encoder", small_clip)
    figures = run(shapes, "generate", *words, "--least", "0.3")
    kept = figures["kept"]
    assert figures["masks"] == sum(kept.values())
    assert min(kept.values()) >= 2
    assert figures["no_categories"] == ["square"]
    every = run(shapes, "generate", "--dataset", "shapes")
    assert figures["masks"] + sum(figures["dropped"].values()) == every["masks"]

    dataset = shapes.catalog.datasets.get("shapes")
    star = shapes.catalog.categories.current(dataset.id).categories.named("star")
    assert star is not None
    labels = shapes.catalog.labels.of_category(dataset.id, star.id)
    assert len(labels) == kept["star"]
    assert {label.source for label in labels} == {LabelSource.MODEL}
    assert all(str(label.model).startswith(f"{small_clip}-") for label in labels)
    assert min(label.score or 0 for label in labels) >= 0.3
    names = true_names(shapes)
    of_stars = [names[one.mask_id] == "star" for one in labels if one.mask_id in names]
    assert np.mean(of_stars) > 0.6  # of all shapes, a fifth are stars
    recorded = list(WordFiles(shapes.objects).read(figures["run"]))
    squares = [one for part in recorded for one in part.kept if one.word == "square"]
    assert len(squares) == kept["square"]
    assert shapes.catalog.runs.get(figures["run"]).kind == RunKind.WORDS

    truth = write_pictures(tmp_path / "truth", SEEDS, named=False)
    ingest_folder(shapes, "shapes", truth, truth / "instances.json")
    prefill = shapes.settings.prefill.model_copy(update={"source": "words"})
    monkeypatch.setattr(shapes, "settings", shapes.settings.model_copy(update={"prefill": prefill}))
    plan = [PlannedRound(stage=Stage.SEMI_AUTOMATIC, images=len(SEEDS), retrain=False)]
    data_engine(str(shapes.settings.root), "shapes", plan)
    kept_by_people = [
        mask for mask in shapes.masks.masks(dataset="shapes") if mask.source == Source.PREFILL
    ]
    asked = {one.mask_id: one.word for part in recorded for one in part.kept}
    origins = {str(mask.supersedes): mask for mask in kept_by_people}
    assert origins.keys() <= asked.keys()
    inherited = labels_of(shapes, kept_by_people)
    of_star = [mask.mask_id for origin, mask in origins.items() if asked[origin] == "star"]
    assert len(of_star) >= 1
    assert sorted(inherited) == sorted(of_star)
    assert {label.category_id for label in inherited.values()} == {star.id}


def test_a_stopped_run_keeps_its_words_and_labels_each_mask_once(
    shapes: Workspace, small_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.catalog.shards import Shards

    words = ("--dataset", "shapes", "--text", "star", "--encoder", small_clip, "--least", "0.3")
    commit = Shards.commit
    with monkeypatch.context() as patched:

        def killed(self: Shards, run_id: str, shard: int, *rest: object, **more: object) -> None:
            if shard == 1:  # its masks are committed and labelled, the shard is not marked
                raise KeyboardInterrupt
            commit(self, run_id, shard, *rest, **more)  # type: ignore[arg-type]

        patched.setattr(Shards, "commit", killed)
        root = {"DATAENGINE_WORKSPACE": str(shapes.settings.root)}
        CliRunner().invoke(app, ["generate", *words], env=root)
    dataset = shapes.catalog.datasets.get("shapes")
    [begun] = shapes.catalog.runs.all(dataset_id=dataset.id, kind=RunKind.WORDS, limit=9)
    figures = run(shapes, "generate", "--resume", begun.id)
    assert figures["run"] == begun.id
    masks = {mask.mask_id for mask in shapes.masks.masks(run_id=begun.id)}
    assert figures["masks"] == figures["kept"]["star"] == len(masks)
    star = shapes.catalog.categories.current(dataset.id).categories.named("star")
    assert star is not None
    labels = shapes.catalog.labels.of_category(dataset.id, star.id)
    assert sorted(label.mask_id for label in labels) == sorted(masks)
    assert all(len(shapes.catalog.labels.history(la.image_id, la.mask_id)) == 1 for la in labels)


def test_words_that_cannot_be_asked_are_refused_before_a_run_begins(workspace: Workspace) -> None:
    workspace.catalog.datasets.get_or_create("shapes")
    root = {"DATAENGINE_WORKSPACE": str(workspace.settings.root)}
    for options, message in (
        (("cat", "--encoder", "lite"), "lite reads no texts.*extra `clip`"),
        (("cat", "--encoder", "imagenet"), "no class 'cat'; similar ones: .*Egyptian cat"),
        ((" , ",), "with commas between them"),
    ):
        words = ["generate", "--dataset", "shapes", "--text", *options]
        found = CliRunner().invoke(app, words, env=root)
        assert found.exit_code != 0
        assert re.search(message, str(found.exception))
    assert not workspace.catalog.runs.all(kind=RunKind.WORDS, limit=9)
