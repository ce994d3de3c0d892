"""Thresholds of a new model version are calibrated on held-out images, if there are enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.sam import Segmenter, Thresholds, load_sam
from flows.data.ingest import ingest_folder
from flows.training import calibrate
from flows.training.calibrate import calibrated, calibration_images
from flows.training.scores import held_out_images
from flows.workspace.settings import load_settings
from flows.workspace.workspace import Workspace
from storage.catalog import Image
from storage.formats.images import BadImageError

PARENT = Thresholds(min_predicted_iou=0.11, min_stability=0.22, confident_iou=0.33)


def calibration(workspace: Workspace) -> tuple[Thresholds, dict[str, float], str]:
    """Calibrate the shipped model, as a child of a version with PARENT, on dataset `d`."""
    segmenter = Segmenter(load_sam(), version="new", thresholds=PARENT)
    return calibrated(workspace, segmenter, calibration_images(workspace, ["d"]))


def test_with_few_held_out_masks_the_parents_thresholds_stay(
    workspace: Workspace, scenes: Path
) -> None:
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.1)
    found, scores, note = calibration(workspace)
    assert (found, scores) == (PARENT, {})
    assert "unchanged: too few" in note


def test_with_enough_of_them_own_thresholds_are_found(
    workspace: Workspace, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MIN_MASKS", 5)
    monkeypatch.setattr(calibrate, "MIN_IMAGES", 2)  # the settings say two
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.6)
    images = held_out_images(workspace, ["d"], limit=9)
    assert len(images) == 2
    found, scores, note = calibration(workspace)
    assert found != PARENT
    assert 0.3 <= found.min_predicted_iou <= found.confident_iou
    assert scores["recall_50"] > 0
    assert "2 held-out images" in note
    assert "target 0.8," in note


def test_datasets_take_turns_and_broken_images_are_left_out(
    workspace: Workspace, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("d", "e"):  # the settings say two of each
        ingest_folder(workspace, name, scenes, scenes / "instances.json", held_out=0.6)
    read: list[int] = []
    pixels = workspace.pixels

    def breaking(image: Image) -> np.ndarray:
        read.append(image.dataset_id)
        if len(read) == 1:
            raise BadImageError("truncated")
        return pixels(image)

    monkeypatch.setattr(workspace, "pixels", breaking)
    assert len(held_out_images(workspace, ["d", "e"], limit=3)) == 2
    ids = [workspace.catalog.datasets.get(name).id for name in ("d", "e")]
    assert read == [ids[0], ids[1], ids[0]]


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
    _, _, note = calibration(workspace)
    assert wanted == [0.97]
    assert "precision 0.98, target 0.97" in note
