"""Thresholds of a new model version are calibrated on held-out images, if there are enough."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.evaluation.clicks import EvaluationImage
from engine.sam import Segmenter, Thresholds, load_sam
from flows.data.ingest import ingest_folder
from flows.training import calibrate, scores
from flows.training.calibrate import calibrated, calibration_images
from flows.training.scores import held_out_images, held_out_scores
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
    found, kept, note = calibration(workspace)
    assert (found, kept) == (PARENT, {})
    assert "unchanged: too few" in note


def test_with_enough_of_them_own_thresholds_are_found(
    workspace: Workspace, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MIN_MASKS", 5)
    monkeypatch.setattr(calibrate, "MIN_IMAGES", 2)  # the settings say two
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.6)
    images = held_out_images(workspace, ["d"], limit=9)
    assert len(images) == 2
    found, kept, note = calibration(workspace)
    assert found != PARENT
    assert 0.3 <= found.min_predicted_iou <= found.confident_iou
    assert kept["recall_50"] > 0
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


def test_a_model_is_asked_on_as_many_tiles_with_a_click_as_are_best_on_held_out_images(
    workspace: Workspace, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_folder(workspace, "d", scenes, scenes / "instances.json", held_out=0.6)
    assert held_out_scores(workspace, "lite", "d")["masks"] == 4
    assert workspace.segmenter("lite").click_levels is None  # too few masks to choose by

    def one_level(segmenter: Segmenter, images: Iterable[EvaluationImage]) -> np.ndarray:
        assert segmenter.version == "lite"
        return np.array([[0.5], [0.8], [0.805]]).repeat(sum(len(i.truths) for i in images), 1)

    monkeypatch.setattr(scores, "score_click_levels", one_level)
    monkeypatch.setattr(scores, "LEAST_LEVELS_MASKS", 5)
    monkeypatch.setenv("DATAENGINE_TRAIN__EVALUATION_MASKS", "1")  # so that it is scored again
    again = Workspace(load_settings(workspace.settings.root))
    assert held_out_scores(again, "lite", "d")["masks"] == 2
    card = workspace.catalog.models.get("lite").card
    assert card["scores"]["click_levels"]["miou_1_click"] == [0.5, 0.8, 0.805]
    elsewhere = Workspace(load_settings(workspace.settings.root))
    for opened in (again, elsewhere):
        assert opened.segmenter("lite").click_levels == 1
    child = elsewhere.load_model("lite")[1]
    assert (child.click_levels, child.thresholds) == (1, elsewhere.segmenter("lite").thresholds)
