"""The detector in a workspace: trained on people's masks, gated, and pre-filling stage 2."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.core.records import Source, Stage
from engine.core.rle import encode
from flows.cli.main import app
from flows.data.annotations import imported
from flows.data.ingest import ingest, ingest_folder
from flows.loop.data_engine import data_engine
from flows.operations.status import round_rows
from flows.stages.disagreement import MIN_SCORE, detector_agreement
from flows.stages.rounds import open_round
from flows.training.detector import load_detector
from flows.workspace.embeddings import embedding_of
from flows.workspace.workspace import Workspace
from storage.catalog import ModelKind, ModelState, PlannedRound, Split, TaskKind
from storage.masks import read_parquet
from tests.flows.conftest import TOML, make_workspace, write_scenes

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with a round of stage 1, whose stage 2 takes a detector's masks."""
    union = '[prefill]\nsource = "union"\nprecision = 0.01\n'
    workspace = make_workspace(tmp_path / "ws", TOML + union)
    root = workspace.settings.root
    scenes = write_scenes(tmp_path / "scenes", 12)
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.3)
    monkeypatch.setattr("flows.training.detector.LEAST_STEPS", 12)
    monkeypatch.setattr("flows.training.detector.GOOD_IOU", 0.05)
    monkeypatch.setattr("engine.detector.network.MAX_DETECTIONS", 12)
    monkeypatch.chdir(root)
    plan = [PlannedRound(stage=Stage.ASSISTED_MANUAL, images=3, retrain=False)]
    data_engine(str(root), "d", plan)
    return workspace


def train(*options: str) -> dict[str, object]:
    result = CliRunner().invoke(
        app, ["detector", "train", "--dataset", "d", "--json", *options], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_a_trained_detector_is_scored_promoted_and_fills_images_before_people_see_them(
    annotated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train("--name", "d1")
    assert result["promoted"]
    models = annotated.catalog.models
    current = models.current(ModelKind.DETECTOR)
    assert current is not None
    assert (current.version, current.card["segmenter"]) == ("d1", "lite")
    assert current.card["data"]["images"] == 3
    assert models.current() == models.get("lite")
    again = train("--name", "d2")
    assert not again["promoted"]
    assert "not significantly better" in str(again["reason"])
    assert models.get("d2").state == ModelState.CANDIDATE
    plan = [PlannedRound(stage=Stage.SEMI_AUTOMATIC, images=2, retrain=False)]
    data_engine(str(annotated.settings.root), "d", plan)
    tasks = annotated.queue.latest(2, kinds=[TaskKind.COMPLETE])
    given = [
        mask for t in tasks for mask in read_parquet(annotated.objects.get(t.payload["prefill"]))
    ]
    assert {mask.source for mask in given} == {Source.PREFILL}
    names = {mask.mask_id.rpartition("/")[2].startswith("detected-") for mask in given}
    assert names == {True, False}  # of the detector and of the generator


def test_images_where_the_detector_finds_what_the_masks_lack_are_the_more_uncertain(
    annotated: Workspace,
) -> None:
    train("--name", "d1")
    detector = load_detector(annotated, "lite")
    assert detector is not None
    images = list(annotated.catalog.images.each(1, split=Split.TRAIN))[-2:]
    origin = replace(imported("d", "made"), source=Source.AUTOMATIC, stage=Stage.FULLY_AUTOMATIC)
    masks = []
    for image, is_agreed in zip(images, (True, False), strict=True):
        found = detector.detect(embedding_of(annotated, "lite", image))
        boxes = found.boxes_N4[found.scores_N >= MIN_SCORE]
        assert len(boxes)  # as many masks in both images: at the boxes, or all at one place
        for number, (x0, y0, x1, y1) in enumerate(boxes.round().astype(int)):
            whole = np.zeros((image.height, image.width), bool)
            if is_agreed:
                whole[y0:y1, x0:x1] = True
            else:
                whole[:2, :2] = True
            masks.append(
                origin.mask(image.id, number, encode(whole), predicted_iou=0.9, stability_score=0.9)
            )
    annotated.masks.commit(masks, run_id="made", shard=0)
    agreed, other = (image.id for image in images)
    found_agreement = detector_agreement(annotated, "d", [agreed, other])
    assert found_agreement[agreed] > 0.9
    assert found_agreement[other] == 0
    plan = PlannedRound(stage=Stage.ASSISTED_MANUAL, images=1, choice="disagreement")
    loop = annotated.catalog.loops.start_or_resume(1, [plan], new=True)
    row = open_round(annotated, annotated.catalog.rounds.for_loop(loop.id)[0])
    assert annotated.catalog.rounds.image_ids(row.id) == [other]
    assert "agree least with the detector" in str(round_rows(annotated, loop.id)[0]["chosen"])


def test_a_detector_is_not_asked_about_another_models_embeddings(annotated: Workspace) -> None:
    train("--name", "d1")
    assert load_detector(annotated, "lite") is not None
    assert load_detector(annotated, "other") is None


def test_without_masks_of_people_it_says_what_to_do(
    workspace: Workspace, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace.settings.root
    ingest(str(root), "d", str(scenes), held_out=0.3)
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, ["detector", "train", "--dataset", "d"])
    assert result.exit_code != 0
    assert "has no masks on training images yet" in str(result.exception)
