"""Generated scenes: deterministic, exact, of every kind."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from engine.simulation.scenes import KINDS, MIN_AREA, Scene, generate_scene
from engine.simulation.textures import TEXTURE_PHOTOS

SIZE = (80, 112)
SEEDS = range(6)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@cache
def scenes(kind: str) -> list[Scene]:
    return [generate_scene(seed, SIZE, kind) for seed in SEEDS]


@EVERY_KIND
def test_the_same_seed_gives_the_same_pixels(kind: str) -> None:
    first = scenes(kind)[2]
    again = generate_scene(2, SIZE, kind)
    assert np.array_equal(first.image_HWC, again.image_HWC)
    assert len(first.masks) == len(again.masks)
    assert all(np.array_equal(a, b) for a, b in zip(first.masks, again.masks, strict=True))


@EVERY_KIND
def test_another_seed_or_size_gives_another_scene(kind: str) -> None:
    pixels = {scene.image_HWC.tobytes() for scene in scenes(kind)}
    assert len(pixels) == len(SEEDS)
    wider = generate_scene(2, (SIZE[0], SIZE[1] + 1), kind)
    assert not np.array_equal(wider.image_HWC[:, : SIZE[1]], scenes(kind)[2].image_HWC)


@EVERY_KIND
def test_images_are_rgb_bytes_of_the_requested_size(kind: str) -> None:
    for scene in scenes(kind):
        assert scene.kind == kind
        assert scene.image_HWC.shape == (*SIZE, 3)
        assert scene.image_HWC.dtype == np.uint8
        assert scene.image_HWC.std() > 1


@EVERY_KIND
def test_masks_are_bool_inside_and_never_hidden(kind: str) -> None:
    assert any(scene.masks for scene in scenes(kind))
    for scene in scenes(kind):
        for mask in scene.masks:
            assert mask.dtype == np.bool_
            assert mask.shape == SIZE
            assert mask.sum() >= MIN_AREA


@EVERY_KIND
def test_background_is_what_no_mask_covers(kind: str) -> None:
    for scene in scenes(kind):
        covered = np.zeros(SIZE, bool)
        for mask in scene.masks:
            covered |= mask
        assert np.array_equal(scene.background_HW, ~covered)


@EVERY_KIND
def test_two_masks_are_disjoint_or_one_is_part_of_the_other(kind: str) -> None:
    for scene in scenes(kind):
        for index, mask in enumerate(scene.masks):
            for other in scene.masks[:index]:
                shared = (mask & other).sum()
                assert shared in (0, mask.sum(), other.sum())


def test_some_objects_have_parts() -> None:
    nested = 0
    for scene in [generate_scene(seed, (128, 128), "objects") for seed in range(8)]:
        for index, part in enumerate(scene.masks):
            nested += sum(bool((part & whole).any()) for whole in scene.masks[:index])
    assert nested >= 3


def test_an_object_contrasts_with_what_it_covers() -> None:
    """Masks and pixels agree: colours change across most outlines."""
    steps = []
    for scene in [generate_scene(seed, SIZE, "regions") for seed in SEEDS]:
        grey = scene.image_HWC.astype(float)
        change = np.abs(np.diff(grey, axis=1)).max(axis=2)
        for mask in scene.masks:
            edge = mask[:, 1:] != mask[:, :-1]
            steps.append(change[edge].mean() / change[~edge].mean())
    assert np.median(steps) > 1.5


def test_without_a_kind_exactly_the_kinds_with_a_probability_occur() -> None:
    kinds = {generate_scene(seed, (64, 64)).kind for seed in range(40)}
    assert kinds == {kind for kind, (_, odds) in KINDS.items() if odds > 0}


@pytest.mark.parametrize("size", [(63, 128), (128, 63), (0, 0)])
def test_a_scene_that_is_too_small_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 64"):
        generate_scene(0, size)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"'stars'.*{', '.join(KINDS)}"):
        generate_scene(0, kind="stars")


def test_the_photographs_of_the_demo_are_in_no_scene() -> None:
    assert not {"coins", "coffee", "cat", "chelsea", "rocket"} & set(TEXTURE_PHOTOS)
