"""Training samples. Objects are bright on black, so that a pixel's value identifies its object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from engine.core.clicks import center_point
from engine.core.rle import encode
from engine.simulation.scenes import generate_scene
from engine.training.config import TrainConfig
from engine.training.samples import Example, Sample, make_sample

CONFIG = TrainConfig(image_size=64, masks_per_image=12, background_share=0.3)
STILL = replace(CONFIG, jitter=(1.0, 1.0), box_noise=0.0)
"""A configuration without scaling and noise."""
BRIGHT = 110
"""A threshold between background and objects after any recolouring."""


def painted(*masks: np.ndarray) -> Example:
    image = np.zeros((*masks[0].shape, 3), np.uint8)
    for mask in masks:
        image[mask] = 220
    return Example(image, [encode(mask) for mask in masks])


def box_mask(size: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


SIZE = (60, 96)
TWO = painted(box_mask(SIZE, 10, 8, 38, 30), box_mask(SIZE, 56, 26, 90, 54))


def samples(example: Example, config: TrainConfig, count: int = 60) -> Iterator[Sample]:
    """Return the samples of `count` draws, without None."""
    for seed in range(count):
        sample = make_sample(example, config, np.random.default_rng(seed))
        if sample is not None:
            yield sample


def scene_samples() -> Iterator[Sample]:
    for seed in range(12):
        scene = generate_scene(seed, (72, 104))
        yield from samples(Example(scene.image_HWC, [encode(m) for m in scene.masks]), CONFIG, 3)


def test_arrays_have_the_documented_shapes_and_dtypes() -> None:
    for sample in samples(TWO, CONFIG, 5):
        assert sample.image_SSC.shape == (64, 64, 3)
        assert sample.image_SSC.dtype == np.uint8
        assert sample.masks_KSS.shape == (12, 64, 64)
        assert sample.masks_KSS.dtype == np.uint8
        assert sample.clicks_K2.shape == (12, 2)
        assert sample.boxes_K4.shape == (12, 4)
        assert sample.is_background_K.dtype == np.bool_


def test_the_same_generator_draws_the_same_sample() -> None:
    one, two = (make_sample(TWO, CONFIG, np.random.default_rng(7)) for _ in range(2))
    assert one is not None
    assert two is not None
    for name in ("image_SSC", "masks_KSS", "clicks_K2", "boxes_K4", "is_background_K"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


def test_every_first_click_lies_inside_its_mask() -> None:
    clicks = 0
    for sample in scene_samples():
        for k in np.flatnonzero(~sample.is_background_K):
            x, y = sample.clicks_K2[k].astype(int)
            assert sample.masks_KSS[k, y, x] == 1
            clicks += 1
    assert clicks > 100


def test_a_background_click_lies_on_no_object() -> None:
    clicks = 0
    for sample in samples(TWO, CONFIG):
        for k in np.flatnonzero(sample.is_background_K):
            x, y = sample.clicks_K2[k].astype(int)
            assert sample.image_SSC[y, x].max() < BRIGHT
            assert y < sample.size[0]
            assert x < sample.size[1]
            clicks += 1
    assert clicks > 100


def test_a_background_click_keeps_a_distance_from_objects() -> None:
    for sample in samples(TWO, replace(STILL, masks_per_image=64)):
        objects = sample.masks_KSS.max(axis=0)
        for x, y in sample.clicks_K2[sample.is_background_K].astype(int):
            assert not objects[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].any()


@pytest.mark.parametrize(
    ("masks", "changes"),
    [
        ([(4, 4, 30, 30), (50, 10, 90, 50)], {"min_pixels": 400, "jitter": (1.0, 1.0)}),
        ([(0, 0, 70, 60)], {"jitter": (1.6, 2.0), "background_share": 1.0}),
    ],
    ids=["too small to train on", "too large to train on"],
)
def test_a_background_click_lies_on_no_dropped_object(
    masks: list[tuple[int, int, int, int]], changes: dict[str, float]
) -> None:
    example = painted(*(box_mask(SIZE, *box) for box in masks))
    for sample in samples(example, replace(CONFIG, **changes)):  # type: ignore[arg-type]
        for x, y in sample.clicks_K2[sample.is_background_K].astype(int):
            assert sample.image_SSC[y, x].max() < BRIGHT


def test_no_background_click_is_drawn_where_objects_may_lack_a_mask() -> None:
    partial = replace(TWO, is_complete=False)
    for sample in samples(partial, replace(CONFIG, background_share=0.9)):
        assert not sample.is_background_K.any()


def test_a_background_prompt_has_no_mask_and_the_whole_image_as_box() -> None:
    for sample in samples(TWO, CONFIG, 20):
        height, width = sample.size
        for k in np.flatnonzero(sample.is_background_K):
            assert not sample.masks_KSS[k].any()
            assert sample.boxes_K4[k].tolist() == [0, 0, width, height]


def test_the_share_of_background_prompts_is_background_share() -> None:
    drawn = np.concatenate([s.is_background_K for s in samples(TWO, STILL)])
    assert 0.24 < drawn.mean() < 0.36
    none = replace(STILL, background_share=0.0)
    assert not np.concatenate([s.is_background_K for s in samples(TWO, none, 10)]).any()


def test_boxes_are_inside_the_image_and_not_empty() -> None:
    for sample in scene_samples():
        height, width = sample.size
        x0, y0, x1, y1 = sample.boxes_K4.T
        assert (x0 >= 0).all()
        assert (y0 >= 0).all()
        assert (x1 > x0).all()
        assert (y1 > y0).all()
        assert (x1 <= width).all()
        assert (y1 <= height).all()


def test_boxes_of_thin_masks_at_the_edge_are_inside_the_image() -> None:
    thin = painted(box_mask((64, 64), 0, 2, 1, 60))
    for sample in samples(thin, replace(STILL, box_noise=0.1)):
        assert (sample.boxes_K4 >= 0).all()


def test_without_noise_a_box_is_tight() -> None:
    for sample in samples(TWO, STILL, 20):
        for k in np.flatnonzero(~sample.is_background_K):
            y, x = np.nonzero(sample.masks_KSS[k])
            tight = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert sample.boxes_K4[k].tolist() == tight


def test_most_boxes_are_noisy_and_none_by_much() -> None:
    errors = []
    for sample in samples(TWO, replace(STILL, box_noise=0.1)):
        for k in np.flatnonzero(~sample.is_background_K):
            y, x = np.nonzero(sample.masks_KSS[k])
            tight = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
            errors.append(np.abs(sample.boxes_K4[k] - tight).max())
    noisy = np.array(errors) > 0
    assert 0.6 < noisy.mean() < 0.8
    assert np.median(np.array(errors)[noisy]) < 5


def test_masks_and_pixels_are_turned_the_same_way() -> None:
    for sample in samples(TWO, replace(CONFIG, masks_per_image=4)):
        for mask in sample.masks_KSS[~sample.is_background_K].astype(bool):
            assert sample.image_SSC[mask].max(axis=1).mean() > BRIGHT
            assert np.percentile(sample.image_SSC[mask].max(axis=1), 20) > BRIGHT


def test_all_flips_and_transposes_occur() -> None:
    corner = painted(box_mask((96, 96), 0, 0, 40, 20))
    places = set()
    for sample in samples(corner, replace(STILL, background_share=0.0), 60):
        y, x = np.nonzero(sample.masks_KSS[0])
        places.add((bool(x.min() > 0), bool(y.min() > 0), bool(np.ptp(x) > np.ptp(y))))
    assert len(places) == 8


def test_the_longer_side_fills_the_sample_and_the_rest_is_black() -> None:
    sizes = set()
    for sample in samples(TWO, STILL, 30):
        sizes.add(sample.size)
        height, width = sample.size
        assert not sample.image_SSC[height:].any()
        assert not sample.image_SSC[:, width:].any()
        assert not sample.masks_KSS[:, height:].any()
        assert not sample.masks_KSS[:, :, width:].any()
    assert sizes == {(40, 64), (64, 40)}


def test_zooming_in_crops_and_zooming_out_shrinks() -> None:
    near = next(samples(TWO, replace(STILL, jitter=(2.0, 2.0)), 1))
    far = next(samples(TWO, replace(STILL, jitter=(0.5, 0.5)), 1))
    assert sorted(near.size) == [64, 64]
    assert sorted(far.size) == [20, 32]


def test_no_mask_above_max_area_is_drawn() -> None:
    wide = painted(box_mask(SIZE, 0, 0, 80, 60), box_mask(SIZE, 4, 4, 30, 30))
    limit = replace(CONFIG, max_area=0.5, jitter=(1.0, 1.6))
    seen = 0
    for sample in samples(wide, limit):
        for mask in sample.masks_KSS[~sample.is_background_K]:
            assert mask.sum() <= 0.5 * sample.size[0] * sample.size[1]
            seen += 1
    assert seen > 50


def test_no_mask_below_min_pixels_is_drawn() -> None:
    small = painted(box_mask(SIZE, 4, 4, 10, 10), box_mask(SIZE, 40, 20, 80, 50))
    drawn = [
        int(mask.sum())
        for sample in samples(small, replace(STILL, min_pixels=100))
        for mask in sample.masks_KSS[~sample.is_background_K]
    ]
    assert min(drawn) >= 100
    kept = [
        int(mask.sum())
        for sample in samples(small, replace(STILL, min_pixels=4))
        for mask in sample.masks_KSS[~sample.is_background_K]
    ]
    assert min(kept) < 100


def test_central_clicks_are_at_the_point_farthest_from_the_edge() -> None:
    for sample in samples(TWO, replace(STILL, center_share=1.0), 10):
        for k in np.flatnonzero(~sample.is_background_K):
            wanted = center_point(sample.masks_KSS[k].astype(bool))
            assert tuple(sample.clicks_K2[k].astype(int)) == wanted
    spread = {
        tuple(click)
        for sample in samples(TWO, replace(STILL, center_share=0.0), 10)
        for click in sample.clicks_K2[~sample.is_background_K]
    }
    assert len(spread) > 60


def test_an_image_without_masks_gives_no_sample() -> None:
    bare = Example(np.zeros((*SIZE, 3), np.uint8), [])
    config = replace(CONFIG, background_share=0.0)
    assert list(samples(bare, config, 20)) == []


def test_an_image_all_covered_gives_no_background_click() -> None:
    halves = painted(box_mask(SIZE, 0, 0, 48, 60), box_mask(SIZE, 48, 0, 96, 60))
    for sample in samples(halves, replace(STILL, background_share=1.0), 10):
        assert not sample.is_background_K.any()


def test_the_example_itself_is_not_changed() -> None:
    before = TWO.image_HWC.copy()
    list(samples(TWO, CONFIG, 10))
    assert np.array_equal(TWO.image_HWC, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("images_per_step", 0),
        ("masks_per_image", 0),
        ("image_size", 100),
        ("box_share", 1.1),
        ("background_share", -0.1),
        ("center_share", 2.0),
        ("replay", -1.0),
        ("max_area", 1.5),
        ("trained_share", -0.5),
    ],
)
def test_a_training_config_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        replace(CONFIG, **{name: value})  # type: ignore[arg-type]
