"""The same answers as segment_anything's own predictor and mask generator, on the same weights.

Random weights with the decoder stretched, so that masks differ from click to click; then the
shipped model, where it lies in the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.automatic import GeneratedMask, GeneratorConfig, MaskGenerator
from engine.core.metrics import match
from engine.core.records import Prompt
from engine.core.rle import encode, iou_matrix
from engine.sam import Segmenter, Thresholds, load_sam
from engine.sam.build import build_sam  # makes torchvision importable
from engine.sam.checkpoint import shipped_path
from engine.simulation.scenes import generate_scene

torch.set_num_threads(1)
IMAGE = generate_scene(3, (150, 200), "regions").image_HWC
"""Not square, and no multiple of anything."""

CLICK = np.array([[61.0, 95.0]])
THREE = np.array([[61.0, 95.0], [120.5, 30.0], [180.0, 140.0]])
THREE_LABELS = np.array([1, 0, 1])
BOX = np.array([20.0, 33.0, 141.0, 118.0])


@torch.no_grad()
def stretched(sharpness: float, gain: float, offset: float) -> Any:
    """Random weights that mind where the click is: `sharpness` times larger projections, `gain`
    times steeper logits less `offset`, and predicted IoUs that lie well inside (0, 1)."""
    torch.manual_seed(0)
    sam = build_sam("lite")
    decoder = sam.mask_decoder
    for name, value in decoder.transformer.named_parameters():
        if "proj" in name and name.endswith("weight"):
            value.mul_(sharpness)
    constant = decoder.output_upscaling[-2]  # channel 0 becomes 10 everywhere ...
    constant.weight[:, 0] = 0
    constant.bias[0] = 10
    for mlp in decoder.output_hypernetworks_mlps:
        last = mlp.layers[-1]
        last.weight.mul_(gain)
        last.bias.mul_(gain)
        last.weight[0] = 0
        last.bias[0] = -offset / 10  # ... and takes the offset from every logit
    quality = decoder.iou_prediction_head.layers[-1]
    quality.weight.mul_(1.2)
    quality.bias.add_(0.5)
    return sam


@pytest.fixture(scope="module")
def sam() -> Any:
    return stretched(sharpness=8, gain=30, offset=0)


@pytest.fixture(scope="module")
def segmenter(sam: Any) -> Segmenter:
    return Segmenter(sam, version="random", thresholds=Thresholds())


@pytest.fixture(scope="module")
def predictor(sam: Any) -> Any:
    from segment_anything import SamPredictor

    theirs = SamPredictor(sam)
    theirs.set_image(IMAGE)
    return theirs


def former_logits() -> np.ndarray:
    return np.random.default_rng(8).normal(0, 4, (128, 128)).astype(np.float32)


CASES = {
    "one click": (Prompt(points_xy=CLICK, labels=np.array([1])), True),
    "one click, one mask": (Prompt(points_xy=CLICK, labels=np.array([1])), False),
    "three clicks": (Prompt(points_xy=THREE, labels=THREE_LABELS), True),
    "three clicks and logits": (
        Prompt(points_xy=THREE, labels=THREE_LABELS, mask_logits=former_logits()),
        False,
    ),
    "box": (Prompt(box_xyxy=BOX), False),
    "box and click": (Prompt(points_xy=CLICK, labels=np.array([1]), box_xyxy=BOX), False),
    "box and logits": (Prompt(box_xyxy=BOX, mask_logits=former_logits()), True),
}


def test_the_image_is_embedded_as_the_predictor_does(segmenter: Segmenter, predictor: Any) -> None:
    ours = segmenter.embed(IMAGE)
    assert ours.original_size == predictor.original_size
    assert ours.input_size == tuple(predictor.input_size)
    assert torch.allclose(ours.features_1CHW, predictor.features, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_prompt_is_answered_as_the_predictor_does(
    case: str, segmenter: Segmenter, predictor: Any
) -> None:
    prompt, multimask = CASES[case]
    masks, scores, logits = predictor.predict(
        point_coords=prompt.points_xy,
        point_labels=prompt.labels,
        box=prompt.box_xyxy,
        mask_input=None if prompt.mask_logits is None else prompt.mask_logits[None],
        multimask_output=multimask,
    )
    embedding = segmenter.embed(IMAGE)
    answer = segmenter.predict(embedding, [prompt], multimask=multimask)
    ours = answer.logits_BMHW[0]
    assert np.abs(ours.numpy() - logits).max() < 2e-3  # stretched weights stretch rounding too
    assert np.abs(answer.predicted_iou_BM[0].numpy() - scores).max() < 1e-4
    assert 0 < masks.mean() < 1
    assert (segmenter.masks(embedding, ours) == masks).mean() > 0.9999


@pytest.mark.parametrize("case", CASES)
@pytest.mark.skipif(not shipped_path().exists(), reason="the base model is not in this checkout")
def test_the_shipped_model_answers_as_the_predictor_does(case: str) -> None:
    from segment_anything import SamPredictor

    prompt, multimask = CASES[case]
    sam = load_sam()
    theirs = SamPredictor(sam)
    theirs.set_image(IMAGE)
    _, scores, logits = theirs.predict(
        point_coords=prompt.points_xy,
        point_labels=prompt.labels,
        box=prompt.box_xyxy,
        mask_input=None if prompt.mask_logits is None else prompt.mask_logits[None],
        multimask_output=multimask,
    )
    ours = Segmenter(sam, version="lite", thresholds=Thresholds())
    answer = ours.predict(ours.embed(IMAGE), [prompt], multimask=multimask)
    assert np.abs(answer.logits_BMHW[0].numpy() - logits).max() < 2e-4
    assert np.abs(answer.predicted_iou_BM[0].numpy() - scores).max() < 1e-5


# the generator


@pytest.fixture
def half_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends segment_anything's boxes one beyond the last pixel, as ours do.

    Its own boxes end at the last pixel, so a mask one pixel wide has a box of no area there, which
    is never a duplicate of anything. That is the one difference between the two generators.
    """
    from segment_anything import automatic_mask_generator as theirs

    inclusive = theirs.batched_mask_to_box

    def boxes(masks: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = inclusive(masks)
        found[:, 2:] += masks.flatten(1).any(dim=1).long()[:, None]
        return found

    monkeypatch.setattr(theirs, "batched_mask_to_box", boxes)


def both_generate(
    sam: Any, image: np.ndarray, *, side: int, predicted: float, stable: float, box_iou: float
) -> tuple[list[GeneratedMask], list[dict[str, Any]]]:
    """Our masks and segment_anything's at the same settings."""
    from segment_anything import SamAutomaticMaskGenerator

    config = GeneratorConfig(
        points_per_side=side,
        points_per_batch=64,
        min_predicted_iou=predicted,
        min_stability=stable,
        max_box_iou=box_iou,
        max_area=1.0,
        min_area=0,
    )
    segmenter = Segmenter(sam, version="x", thresholds=Thresholds())
    ours = MaskGenerator(segmenter, config).generate(image)
    theirs = SamAutomaticMaskGenerator(
        sam,
        points_per_side=side,
        points_per_batch=64,
        pred_iou_thresh=predicted,
        stability_score_thresh=stable,
        box_nms_thresh=box_iou,
    ).generate(image)
    return ours, theirs


def assert_same_masks(
    ours: list[GeneratedMask], theirs: list[dict[str, Any]], *, beyond: int
) -> None:
    """`beyond`: how many pixels our boxes end later than theirs."""
    assert len(ours) == len(theirs)
    table = iou_matrix(
        [mask.rle for mask in ours], [encode(found["segmentation"]) for found in theirs]
    )
    pairs = match(table, 0.95)
    assert len(pairs) == len(ours)
    for left, right in pairs:
        mask, other = ours[left], theirs[right]
        assert mask.predicted_iou == pytest.approx(other["predicted_iou"], abs=1e-3)
        assert mask.stability_score == pytest.approx(other["stability_score"], abs=5e-3)
        assert mask.point_xy == pytest.approx(tuple(other["point_coords"][0]), abs=1e-3)
        assert abs(mask.area - other["area"]) <= 0.05 * other["area"]
        x, y, w, h = other["bbox"]
        assert mask.box_xyxy == (x, y, x + w + beyond, y + h + beyond)


@pytest.fixture(scope="module")
def sparse() -> Any:
    """Only the peaks stay above nought, so that boxes differ."""
    return stretched(sharpness=16, gain=600, offset=40)


def test_the_generator_keeps_the_candidates_segment_anythings_keeps(sparse: Any) -> None:
    ours, theirs = both_generate(sparse, IMAGE, side=6, predicted=0.05, stable=0.5, box_iou=1.0)
    assert len(ours) >= 40
    assert_same_masks(ours, theirs, beyond=1)


def test_the_generator_drops_the_duplicates_segment_anythings_drops(sparse: Any) -> None:
    ours, theirs = both_generate(sparse, IMAGE, side=6, predicted=0.05, stable=0.3, box_iou=0.9)
    assert len(ours) >= 8
    assert_same_masks(ours, theirs, beyond=1)


@pytest.mark.usefixtures("half_open")
def test_with_the_same_boxes_the_generators_drop_the_same_duplicates(sparse: Any) -> None:
    ours, theirs = both_generate(sparse, IMAGE, side=12, predicted=0.05, stable=0.3, box_iou=0.5)
    assert len(ours) >= 8
    assert_same_masks(ours, theirs, beyond=0)


@pytest.mark.usefixtures("half_open")
@pytest.mark.skipif(not shipped_path().exists(), reason="the base model is not in this checkout")
def test_the_generators_find_the_same_with_the_shipped_model() -> None:
    image = generate_scene(10_000_005, (150, 200)).image_HWC
    ours, theirs = both_generate(load_sam(), image, side=8, predicted=0.3, stable=0.5, box_iou=0.7)
    assert len(ours) >= 5
    assert_same_masks(ours, theirs, beyond=0)
