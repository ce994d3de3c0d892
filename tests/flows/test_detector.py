"""The detector in a workspace: trained on people's masks, gated, and pre-filling stage 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.core.records import Source, Stage
from flows.cli.main import app
from flows.data.ingest import ingest, ingest_folder
from flows.loop.data_engine import data_engine
from flows.training.detector import load_detector
from flows.workspace.workspace import Workspace
from storage.catalog import ModelKind, ModelState, PlannedRound, TaskKind
from storage.masks import read_parquet
from tests.flows.conftest import make_workspace, write_scenes

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with a round of stage 1, whose stage 2 takes a detector's masks."""
    workspace = make_workspace(tmp_path / "ws")
    root = workspace.settings.root
    scenes = write_scenes(tmp_path / "scenes", 12)
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.3)
    monkeypatch.setattr("flows.training.detector.LEAST_STEPS", 12)
    monkeypatch.setattr("flows.training.detector.GOOD_IOU", 0.05)
    monkeypatch.setattr("engine.detector.network.MAX_DETECTIONS", 12)
    prefill = workspace.settings.prefill.model_copy(update={"source": "union", "precision": 0.01})
    settings = workspace.settings.model_copy(update={"prefill": prefill})
    monkeypatch.setattr(workspace, "settings", settings)
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
