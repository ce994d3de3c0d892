"""Thresholds of a new model version are calibrated on held-out images, if there are enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.sam import Thresholds, load_sam
from flows.data.ingest import ingest_folder
from flows.training import calibrate
from flows.training.calibrate import calibrated
from flows.training.scores import held_out_images
from flows.workspace.settings import load_settings
from flows.workspace.workspace import Workspace

PARENT = Thresholds(min_predicted_iou=0.11, min_stability=0.22, confident_iou=0.33)


def test_with_few_held_out_masks_the_parents_thresholds_stay(
    workspace: Workspace, scenes: Path
) -> None:
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.1)
    found, scores, note = calibrated(workspace, load_sam(), "d", PARENT)
    assert (found, scores) == (PARENT, {})
    assert "the parent's" in note


def test_with_enough_of_them_own_thresholds_are_found(
    workspace: Workspace, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MIN_MASKS", 5)
    monkeypatch.setattr(calibrate, "MIN_IMAGES", 2)  # the settings say two
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.6)
    images = held_out_images(workspace, "d", limit=9)
    assert len(images) == 2
    found, scores, note = calibrated(workspace, load_sam(), "d", PARENT)
    assert found != PARENT
    assert 0.3 <= found.min_predicted_iou <= found.confident_iou
    assert scores["recall_50"] > 0
    assert "2 held-out images" in note
    assert "target 0.8," in note


def test_thresholds_are_sought_for_the_precision_that_the_settings_state(
    workspace: Workspace, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MIN_MASKS", 5)
    monkeypatch.setattr(calibrate, "MIN_IMAGES", 2)
    monkeypatch.setenv("DATAENGINE_GENERATOR__PRECISION", "0.97")
    workspace = Workspace(load_settings(workspace.settings.root))
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.6)
    wanted = []

    def made_up(*_: Any, min_precision: float, **__: Any) -> tuple[Thresholds, dict[str, float]]:
        wanted.append(min_precision)
        return PARENT, {"precision_50": 0.98, "recall_50": 0.5}

    monkeypatch.setattr(calibrate, "calibrate", made_up)
    _, _, note = calibrated(workspace, load_sam(), "d", PARENT)
    assert wanted == [0.97]
    assert "precision 0.98, target 0.97" in note
