"""The same masks as segment_anything's own generator, with the same weights and settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

from engine.automatic import GeneratedMask, GeneratorConfig, MaskGenerator, preset
from engine.core.metrics import match
from engine.core.rle import encode, iou_matrix
from engine.sam import Segmenter, Thresholds, load_sam
from engine.simulation.scenes import generate_scene
from tests.parity.weights import stretched

torch.set_num_threads(1)
SCENE = generate_scene(3, (150, 200), "regions").image_HWC
"""Not square, and not a multiple of a stride."""

THRESHOLDS = {"min_predicted_iou": 0.4, "min_stability": 0.6}


@pytest.fixture(scope="module")
def lite() -> Any:
    return load_sam()


@pytest.fixture(scope="module")
def sparse() -> Any:
    """Return weights whose masks are small, so that boxes differ."""
    return stretched(sharpness=16, gain=600, offset=40)


def theirs(sam: Any, image: np.ndarray, config: GeneratorConfig) -> list[dict[str, Any]]:
    """Return segment_anything's masks with our configuration."""
    from segment_anything import SamAutomaticMaskGenerator

    generator = SamAutomaticMaskGenerator(
        sam,
        points_per_side=config.points_per_side,
        pred_iou_thresh=config.min_predicted_iou,
        stability_score_thresh=config.min_stability,
        stability_score_offset=config.stability_offset,
        box_nms_thresh=config.max_box_iou,
        crop_n_layers=config.crop_layers,
        crop_nms_thresh=config.max_crop_box_iou,
        crop_overlap_ratio=config.crop_overlap,
        crop_n_points_downscale_factor=config.crop_points_divisor,
        min_mask_region_area=config.min_region,
    )
    found: list[dict[str, Any]] = generator.generate(image)
    return found


def ours(sam: Any, image: np.ndarray, config: GeneratorConfig) -> list[GeneratedMask]:
    return MaskGenerator(Segmenter(sam, version="x", thresholds=Thresholds()), config).generate(
        image
    )


def assert_same(mine: list[GeneratedMask], other: list[dict[str, Any]]) -> None:
    assert len(mine) == len(other)
    table = iou_matrix([m.rle for m in mine], [encode(found["segmentation"]) for found in other])
    pairs = match(table, 0.99)
    assert len(pairs) == len(mine)
    for left, right in pairs:
        mask, found = mine[left], other[right]
        theirs_iou = min(found["predicted_iou"], 1.0)  # ours is clipped
        assert mask.predicted_iou == pytest.approx(theirs_iou, abs=1e-3)
        assert mask.stability_score == pytest.approx(found["stability_score"], abs=1e-3)
        assert mask.point_xy == pytest.approx(tuple(found["point_coords"][0]), abs=1e-3)
        assert abs(mask.area - found["area"]) <= 0.01 * found["area"]
        x, y, w, h = found["bbox"]  # ends at its last pixel
        assert np.abs(np.subtract(mask.box_xyxy, (x, y, x + w + 1, y + h + 1))).max() <= 1
        x, y, w, h = found["crop_box"]
        assert mask.crop_xyxy == (x, y, x + w, y + h)


def photograph(name: str) -> np.ndarray:
    pixels = np.asarray(getattr(skimage.data, name)())
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3])


@pytest.mark.parametrize("photo", ["coins", "coffee", "rocket"])
def test_photographs_with_the_reference_preset_give_the_same_masks(lite: Any, photo: str) -> None:
    image = photograph(photo)
    config = preset("reference", points_per_side=12, **THRESHOLDS)
    mine = ours(lite, image, config)
    assert len(mine) >= 5
    assert_same(mine, theirs(lite, image, config))


@pytest.mark.slow
def test_a_photograph_with_crops_gives_the_same_masks(lite: Any) -> None:
    image = np.ascontiguousarray(photograph("coffee")[::2, ::2])
    config = preset(
        "reference", points_per_side=12, crop_layers=2, crop_points_divisor=2, **THRESHOLDS
    )
    mine = ours(lite, image, config)
    assert len({mask.crop_xyxy for mask in mine}) >= 3  # the image and two crops
    assert_same(mine, theirs(lite, image, config))


def test_small_regions_are_removed_the_same_way(lite: Any) -> None:
    image = generate_scene(10_000_005, (150, 200)).image_HWC
    loose = {"min_predicted_iou": 0.3, "min_stability": 0.4}
    config = preset("reference", points_per_side=10, min_region=60, **loose)
    mine = ours(lite, image, config)
    assert len(mine) >= 5
    assert mine != ours(lite, image, preset("reference", points_per_side=10, **loose))
    assert_same(mine, theirs(lite, image, config))


@pytest.mark.parametrize("box_iou", [1.0, 0.9, 0.5])
def test_duplicates_among_masks_of_a_few_pixels_are_removed_the_same_way(
    sparse: Any, box_iou: float
) -> None:
    config = preset(
        "reference",
        points_per_side=6,
        min_predicted_iou=0.05,
        min_stability=0.5 if box_iou == 1 else 0.3,
        max_box_iou=box_iou,
    )
    mine, other = ours(sparse, SCENE, config), theirs(sparse, SCENE, config)
    assert len(mine) == len(other) >= 4
    table = iou_matrix([m.rle for m in mine], [encode(found["segmentation"]) for found in other])
    assert len(match(table, 0.95)) == len(mine)
