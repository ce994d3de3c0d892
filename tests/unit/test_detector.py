"""The detector: it learns boxes from embeddings, in pixels of images of any shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.core.boxes import iou_matrix
from engine.core.rle import encode
from engine.detector import (
    Detector,
    DetectorCard,
    DetectorConfig,
    DetectorError,
    Example,
    train_detector,
)
from engine.detector.examples import example_of
from engine.detector.network import CELL
from engine.detector.prefill import ScoredMask, keep_distinct, least_confidence, precision_of
from engine.sam.segmenter import Embedding

CHANNELS, CELLS = 4, 16


def drawn(rng: np.random.Generator) -> Example:
    """An embedding whose first channel is 1 in two rectangles, the objects."""
    features = torch.from_numpy(rng.normal(0, 0.1, (CHANNELS, CELLS, CELLS)).astype(np.float32))
    boxes = []
    for left in (0, CELLS // 2):
        x, y = left + rng.integers(1, 3), rng.integers(1, CELLS // 2)
        w, h = rng.integers(3, 5), rng.integers(3, 7)
        features[0, y : y + h, x : x + w] = 1
        boxes.append([x, y, x + w, y + h])
    return Example(features, torch.tensor(boxes, dtype=torch.float32) * CELL)


@pytest.fixture(scope="module")
def detector() -> Detector:
    rng = np.random.default_rng(0)
    examples = [drawn(rng) for _ in range(24)]
    losses: list[float] = []
    config = DetectorConfig(steps=60, images_per_step=4, learning_rate=4e-3)
    network = train_detector(examples, config, on_step=lambda _, loss: losses.append(loss))
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    card = DetectorCard(version="d", segmenter="s", embedding_channels=CHANNELS)
    return Detector(network, card)


def test_it_finds_objects_that_it_has_not_seen_in_pixels_of_a_wide_image(
    detector: Detector,
) -> None:
    example = drawn(np.random.default_rng(99))
    pixels = 5.0  # of the image, per unit of the network
    wide = Embedding(example.embedding_Chw[None], (320, 640), (64, 128))
    found = detector.detect(wide)
    truths = example.boxes_N4.numpy() * pixels
    reachable = truths[truths[:, 1] < 160]
    overlap = iou_matrix(found.boxes_N4[:2].astype(np.float64), reachable.astype(np.float64))
    assert len(reachable)
    assert (overlap.max(axis=0) > 0.5).all()
    assert (np.diff(found.scores_N) <= 0).all()
    assert found.boxes_N4.max() <= 640


def test_a_stored_detector_answers_as_before(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "detector.safetensors"
    detector.save(path)
    again = Detector.load(path)
    embedding = Embedding(drawn(np.random.default_rng(5)).embedding_Chw[None], (9, 9), (128, 128))
    assert again.card == detector.card
    np.testing.assert_array_equal(
        again.detect(embedding).boxes_N4, detector.detect(embedding).boxes_N4
    )


def test_a_damaged_file_and_the_embedding_of_another_model_are_refused(
    detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "detector.safetensors"
    path.write_bytes(b"no detector")
    with pytest.raises(DetectorError, match=r"detector\.safetensors is not a readable detector"):
        Detector.load(path)
    other = Embedding(torch.zeros(1, CHANNELS + 1, 4, 4), (32, 32), (32, 32))
    with pytest.raises(DetectorError, match="reads embeddings of s with 4 channels"):
        detector.detect(other)


def test_nothing_can_be_learned_from_no_image() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        train_detector([], DetectorConfig(steps=1))


def test_boxes_of_masks_are_in_the_frame_of_the_padded_embedding() -> None:
    mask, speck = np.zeros((2, 40, 80), bool)
    mask[12:20, 22:30] = True
    speck[3, 3] = True
    wide = Embedding(torch.zeros(1, 3, 8, 8), (40, 80), (32, 64))
    example = example_of(wide, [encode(mask), encode(speck)])
    np.testing.assert_allclose(example.boxes_N4, np.array([[22, 12, 30, 20]]) * 0.8)


def masks_of(*columns: tuple[int, float]) -> list[ScoredMask]:
    found = []
    for left, confidence in columns:
        mask = np.zeros((10, 40), bool)
        mask[:, left : left + 5] = True
        found.append(ScoredMask(encode(mask), confidence))
    return found


def test_the_least_confidence_is_the_lowest_with_the_precision() -> None:
    truths = [m.rle for m in masks_of(*((5 * n, 1.0) for n in range(8)))]
    right = [[(5 * n, 0.9 - 0.01 * n) for n in range(6)]] * 2
    found = [masks_of(*one, (2, 0.6), (12, 0.5)) for one in right]
    least = least_confidence(found, [truths, truths], 0.9, 0.75)
    assert least == pytest.approx(0.85)
    kept = [[m for m in masks if m.confidence >= least] for masks in found]
    assert precision_of(kept, [truths, truths], 0.75) == (1.0, 0.75)
    assert least_confidence(found, [[], []], 0.9, 0.75) > 1


def test_of_two_sources_repeats_go() -> None:
    masks = masks_of((0, 0.8), (10, 0.7), (0, 0.9))
    assert keep_distinct(masks) == [1, 2]
