"""The losses, compared with their formulas computed by hand for single pixels."""

from __future__ import annotations

import math

import pytest
import torch

from engine.training.config import TrainConfig
from engine.training.losses import balanced_loss, dice_loss, focal_loss, mask_loss, true_iou

torch.set_num_threads(1)
SURE = 40.0
"""A logit whose sigmoid rounds to 1."""


def pixels(*logits: float) -> torch.Tensor:
    """Return logits or targets of one mask, one output and one row of pixels."""
    return torch.tensor(logits, dtype=torch.float32)[None, None, None]


def wanted(*targets: float) -> torch.Tensor:
    return torch.tensor(targets, dtype=torch.float32)[None, None]


def half_covered() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 4, 6, 8), (torch.rand(3, 6, 8) > 0.5).float()


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_focal_loss_is_the_formula_of_the_paper(logit: float) -> None:
    chance = 1 / (1 + math.exp(-logit))
    for_object = 0.25 * (1 - chance) ** 2 * -math.log(chance)
    for_ground = 0.75 * chance**2 * -math.log(1 - chance)
    assert focal_loss(pixels(logit), wanted(1)).item() == pytest.approx(for_object, rel=1e-5)
    assert focal_loss(pixels(logit), wanted(0)).item() == pytest.approx(for_ground, rel=1e-5)
    both = focal_loss(pixels(logit, logit), wanted(1, 0)).item()
    assert both == pytest.approx((for_object + for_ground) / 2, rel=1e-5)


def test_focal_loss_weights_a_confident_error_higher() -> None:
    sure, doubt = focal_loss(pixels(-4), wanted(1)), focal_loss(pixels(0), wanted(1))
    assert sure.item() > 10 * doubt.item()


def test_balanced_loss_of_a_half_covered_mask_is_cross_entropy() -> None:
    found = balanced_loss(pixels(-1, 2, 0.5, 0), wanted(1, 1, 0, 0))
    entropy = [math.log1p(math.e), math.log1p(math.exp(-2)), math.log1p(math.exp(0.5)), math.log(2)]
    assert found.item() == pytest.approx(sum(entropy) / 4, rel=1e-5)


def test_balanced_loss_weighs_a_rare_pixel_by_the_square_root_of_its_rarity() -> None:
    targets = wanted(1, *[0.0] * 9)
    miss = balanced_loss(pixels(-2, *[-SURE] * 9), targets).item()
    false_alarm = balanced_loss(pixels(SURE, 2, *[-SURE] * 8), targets).item()
    assert miss / false_alarm == pytest.approx(3, rel=1e-4)  # sqrt(9 / 1)


@pytest.mark.parametrize("covered", [0, 1, 2, 50, 64])
def test_balanced_weights_average_to_one(covered: int) -> None:
    """With logits of 0 the loss is ln 2, whatever the mask's share of the image."""
    targets = (torch.arange(64) < covered).float().reshape(1, 8, 8)
    found = balanced_loss(torch.zeros(1, 3, 8, 8), targets)
    assert found.flatten().tolist() == pytest.approx([math.log(2)] * 3, rel=1e-5)


def test_the_weight_of_a_very_rare_pixel_is_at_most_ten() -> None:
    targets = torch.zeros(1, 100, 100)
    targets[0, 0, 0] = 1
    logits = torch.full((1, 1, 100, 100), -SURE)
    logits[0, 0, 0, 0] = -2
    miss = balanced_loss(logits, targets).item()
    logits[0, 0, 0, 0], logits[0, 0, 5, 5] = SURE, 2
    assert miss / balanced_loss(logits, targets).item() == pytest.approx(10, rel=1e-3)


def test_dice_loss_is_the_formula_smoothed_by_one_pixel() -> None:
    found = dice_loss(pixels(0, SURE, -SURE), wanted(1, 1, 0))
    assert found.item() == pytest.approx(1 - (2 * 1.5 + 1) / (1.5 + 2 + 1), rel=1e-5)


def test_dice_is_zero_when_all_is_right_and_one_when_all_is_wrong() -> None:
    targets = (torch.arange(400) < 150).float().reshape(1, 20, 20)
    right = (targets[:, None] * 2 - 1) * SURE
    assert dice_loss(right, targets).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-right, targets).item() == pytest.approx(1, abs=0.01)


def test_dice_of_an_empty_prediction_of_an_empty_mask_is_zero() -> None:
    assert dice_loss(pixels(-SURE, -SURE), wanted(0, 0)).item() == pytest.approx(0, abs=1e-6)


def test_the_mask_term_is_twenty_focal_plus_dice_as_in_the_paper() -> None:
    logits, targets = half_covered()
    found = mask_loss(logits, targets, TrainConfig(mask_loss="focal"))
    parts = 20 * focal_loss(logits, targets) + dice_loss(logits, targets)
    assert found.shape == (3, 4)
    assert torch.allclose(found, parts)


def test_the_balanced_mask_term_is_two_balanced_plus_dice() -> None:
    logits, targets = half_covered()
    found = mask_loss(logits, targets, TrainConfig(mask_loss="balanced"))
    assert torch.allclose(found, 2 * balanced_loss(logits, targets) + dice_loss(logits, targets))


@pytest.mark.parametrize("loss", [focal_loss, balanced_loss, dice_loss])
def test_every_mask_and_output_has_its_own_loss(loss: object) -> None:
    assert callable(loss)
    logits, targets = half_covered()
    whole = loss(logits, targets)
    assert whole.shape == (3, 4)
    one = loss(logits[2:, 1:2], targets[2:])
    assert whole[2, 1].item() == pytest.approx(one.item(), rel=1e-5)


@pytest.mark.parametrize("loss", [focal_loss, balanced_loss, dice_loss])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_extreme_logits_and_masks_give_finite_gradients(loss: object, share: float) -> None:
    assert callable(loss)
    logits = torch.tensor([-500.0, -1.0, 1.0, 500.0])[None, None, None].requires_grad_()
    value = loss(logits, torch.full((1, 1, 4), share)).sum()
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_true_iou_thresholds_logits_at_zero_and_targets_at_a_half() -> None:
    found = true_iou(pixels(3, 0.1, -0.1, 0), wanted(1, 0.4, 0.6, 0.9))
    assert found.item() == pytest.approx(1 / 4)
    assert not found.requires_grad


def test_true_iou_of_two_empty_masks_is_zero() -> None:
    assert true_iou(pixels(-1, -1), wanted(0, 0)).item() == 0
