"""Training on photographs: pools, plans, views and the step with nested masks."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.core.rle import encode
from engine.sam.build import build_sam
from engine.training.config import TrainConfig
from engine.training.drawn_clicks import pick_place
from engine.training.losses import mask_loss, true_iou
from engine.training.pack import SIDE, pack
from engine.training.photo_pool import PhotoPool, load_pool, set_names
from engine.training.regions import find_regions
from engine.training.render import Renderer
from engine.training.samples import Example
from engine.training.trainer import NoMasksError
from engine.training.view_plan import BACKGROUND, ViewConfig, draw_plan
from engine.training.view_step import matched_loss, pair_ious, pair_losses
from engine.training.view_trainer import ViewTrainer, ViewTraining

SMALL = ViewConfig(size=128, images=2, prompts=3)


@pytest.fixture(scope="module")
def scenes() -> PhotoPool:
    return load_pool(None, range(6), scene_share=1.0, workers=1)


def painted(pool: PhotoPool) -> PhotoPool:
    """Return the pool with images that show one mask each, white on black."""
    canvas = np.zeros_like(pool.canvas_NSSC)
    weights = np.zeros_like(pool.weight_M)
    for image, first in enumerate(pool.first_N1[:-1]):
        canvas[image][np.unpackbits(pool.packed_MSB[first], axis=1).astype(bool)] = 255
        weights[first] = 1
    return replace(pool, canvas_NSSC=canvas, weight_M=weights)


def test_losses_of_pairs_are_those_of_each_pair_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((2, 4, 24, 24), generator=generator)
    targets = torch.rand((2, 3, 24, 24), generator=generator) ** 3
    losses, ious = pair_losses(logits, targets), pair_ious(logits, targets)
    for target in range(3):
        alone = mask_loss(logits, targets[:, target], TrainConfig(mask_loss="balanced"))
        assert torch.allclose(losses[:, :, target], alone, atol=1e-4)
        assert torch.allclose(ious[:, :, target], true_iou(logits, targets[:, target]))


def test_outputs_are_matched_with_targets_for_the_lowest_loss() -> None:
    losses = torch.tensor([[[9.0, 1.0, 9.0], [2.0, 9.0, 9.0], [9.0, 9.0, 3.0]]])
    assert matched_loss(losses, torch.ones((1, 3))).item() == pytest.approx(2.0)
    assert matched_loss(losses, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx(1.5)
    assert matched_loss(losses, torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(2.0)


@pytest.mark.parametrize("seed", range(6))
def test_a_view_shows_its_mask_where_its_image_does(scenes: PhotoPool, seed: int) -> None:
    pool, sam = painted(scenes), build_sam("lite")
    config = replace(SMALL, pastes=0, background_share=0)
    plan = draw_plan(pool, config, np.random.default_rng(seed))
    views = Renderer(pool, sam, config.size).draw(plan, torch.Generator().manual_seed(seed))
    shown = views.images_B3VV * sam.pixel_std + sam.pixel_mean
    grey = cv2.resize(shown.mean(dim=1).permute(1, 2, 0).numpy(), (64, 64), interpolation=3)
    for image in range(2):
        target = views.targets_RTHH[image * config.prompts, 0].numpy()
        inside, outside = target > 0.99, target < 0.01
        inside, outside = cv2.erode(inside.view(np.uint8), np.ones((3, 3))) > 0, outside
        width, height = (plan.extent_B2[image] / 2).long().tolist()
        outside[height:], outside[:, width:] = False, False
        outside = cv2.erode(outside.view(np.uint8), np.ones((3, 3))) > 0
        if inside.any() and outside.any():
            assert grey[..., image][inside].min() > grey[..., image][outside].max()


def test_masks_under_one_click_are_nested_or_overlap_there(scenes: PhotoPool) -> None:
    sam, generator = build_sam("lite"), torch.Generator().manual_seed(1)
    chains = 0
    for seed in range(4):
        plan = draw_plan(scenes, SMALL, np.random.default_rng(seed))
        views = Renderer(scenes, sam, SMALL.size).draw(plan, generator)
        for row in range(len(views.targets_RTHH)):
            masks = views.targets_RTHH[row][views.is_valid_RT[row]] > 0.5
            sizes = sorted(int(mask.sum()) for mask in masks)
            chains += len(sizes) > 1
            assert all(small < large for small, large in pairwise(sizes))
    assert chains > 0


def test_background_clicks_fall_on_no_object(scenes: PhotoPool) -> None:
    config = replace(SMALL, background_share=1.0, tile_share=0.0)
    plan = draw_plan(scenes, config, np.random.default_rng(3))
    sam = build_sam("lite")
    views = Renderer(scenes, sam, config.size).draw(plan, torch.Generator().manual_seed(0))
    assert (plan.kind_BG == BACKGROUND).all()
    assert not views.targets_RTHH.any()
    renderer = Renderer(scenes, sam, config.size)
    covered = renderer.masks(plan.covered_B, plan.affine_B23)
    low = torch.nn.functional.avg_pool2d(covered[:, None], 2)[:, 0]
    assert low[views.elsewhere_BHH].max() == 0


def test_a_central_click_is_far_from_the_edge() -> None:
    region = torch.zeros((64, 64, 64), dtype=torch.bool)
    region[:, 10:41, 20:51] = True
    x, y = pick_place(region, torch.Generator().manual_seed(0))
    assert region[torch.arange(64), y, x].all()
    near = ((x - 35).abs() <= 6) & ((y - 25).abs() <= 6)
    assert 0.35 < near.float().mean() < 0.75  # half are central by design, some by chance


def test_an_image_of_three_colours_is_cut_by_colour_and_by_known_masks() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, :60], image[:, 60:], image[40:80, 90:130] = (
        (200, 60, 40),
        (40, 90, 200),
        (250, 240, 90),
    )
    flat = [np.zeros((4, 15, 20), np.float32) + 1]
    known = np.zeros((120, 160), bool)
    known[10:40, 10:40] = True  # not visible in the image
    regions = find_regions(image, [known], flat * 3)
    shapes = [row[regions.leaves_HW] for row in regions.members_RN]

    def best(mask: np.ndarray) -> float:
        return max(float((mask & s).sum() / (mask | s).sum()) for s in shapes)

    wanted = np.zeros((120, 160), bool)
    wanted[40:80, 90:130] = True
    assert best(wanted) > 0.95
    assert best(known) > 0.99
    assert all((known & s).sum() in (0, known.sum()) or not (~known & s).any() for s in shapes)


def test_a_packed_photograph_loads_with_its_masks_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    square, low = np.zeros((480, 640), bool), np.zeros((480, 640), bool)
    square[100:300, 200:400], low[10:60, 10:110] = True, True
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (640, 480))
    trunk = build_sam("lite").image_encoder
    monkeypatch.setattr("engine.training.pack.fresh_trunk", lambda weights: trunk)
    monkeypatch.setattr("engine.training.pack.imagenet_weights", dict)
    example = Example(pixels, [encode(square), encode(low)], "shelf")
    pack({"shelf": [example]}, tmp_path / "photos.npz", workers=0)
    pool = load_pool(tmp_path / "photos.npz", [], scene_share=0.0, workers=1)
    assert set_names(tmp_path / "photos.npz") == ["shelf"]
    assert [path.name for path in tmp_path.iterdir()] == ["photos.npz"]
    assert pool.sizes_N2.tolist() == [[360, 480]]
    assert pool.objects_N.tolist() == [2]
    first = np.unpackbits(pool.packed_MSB[0], axis=1).astype(bool)
    second = np.unpackbits(pool.packed_MSB[1], axis=1).astype(bool)
    assert first.shape == (SIDE, SIDE)
    assert first[75:225, 150:300].all()
    assert first.sum() == 150 * 150
    assert abs(int(second.sum()) - 75 * 37.5) < 130
    assert pool.weight_M.sum() == pytest.approx(1.0)


def test_a_pool_without_a_usable_mask_is_refused(scenes: PhotoPool) -> None:
    with pytest.raises(NoMasksError, match="to train on"):
        load_pool(None, [], scene_share=1.0, workers=1)
    tiny = replace(scenes, coarse_MCC=np.zeros_like(scenes.coarse_MCC))
    with pytest.raises(NoMasksError, match="too small"):
        draw_plan(tiny, SMALL, np.random.default_rng(0))


def training(steps: int, **changes: object) -> ViewTraining:
    config = TrainConfig(steps=steps, refinements=1, learning_rate=1e-3, warmup_steps=1, seed=3)
    return ViewTraining(views=SMALL, config=replace(config, **changes))  # type: ignore[arg-type]


def test_a_resumed_training_ends_as_an_uninterrupted_one(scenes: PhotoPool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = build_sam("lite").state_dict()

    def trained(*, stop_after: int | None) -> dict[str, torch.Tensor]:
        path = tmp_path / f"{stop_after}.pt"
        for steps in (*([stop_after] if stop_after else []), 4):
            sam = build_sam("lite")
            sam.load_state_dict(start)
            trainer = ViewTrainer(sam, scenes, training(4, frozen_stages=0))
            if steps < 4:
                trainer.run(checkpoint=path, until=steps)
            else:
                trainer.run(checkpoint=path)
        state: dict[str, torch.Tensor] = sam.state_dict()
        return state

    whole, stopped = trained(stop_after=None), trained(stop_after=2)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert not all(torch.equal(whole[name], start[name]) for name in whole)


def test_a_frozen_encoder_does_not_change(scenes: PhotoPool) -> None:
    sam = build_sam("lite")
    before = {name: value.clone() for name, value in sam.named_parameters()}
    ViewTrainer(sam, scenes, training(2, frozen_encoder=True)).run()
    changed = {
        name.split(".")[0] for name, v in sam.named_parameters() if not v.equal(before[name])
    }
    assert "image_encoder" not in changed
    assert "mask_decoder" in changed
