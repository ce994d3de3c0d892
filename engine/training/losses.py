"""SAM's losses (paper, appendix A), per mask and output.

B = masks, M = outputs, H x W = low-resolution mask. Targets are the share of each low-resolution
cell that the true mask covers, float in [0, 1].
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from engine.training.config import TrainConfig

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


def focal_loss(logits_BMHW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
    """Return the focal loss (Lin et al., 2017), alpha 0.25, gamma 2, mean over pixels: (B, M)."""
    targets = targets_BHW[:, None].expand_as(logits_BMHW)
    entropy = F.binary_cross_entropy_with_logits(logits_BMHW, targets, reduction="none")
    chance = torch.sigmoid(logits_BMHW)
    wrong = chance * (1 - targets) + (1 - chance) * targets
    weight = FOCAL_ALPHA * targets + (1 - FOCAL_ALPHA) * (1 - targets)
    return (weight * entropy * wrong**FOCAL_GAMMA).mean(dim=(2, 3))


def balanced_loss(logits_BMHW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy, mean over pixels, with positive pixels weighted by
    sqrt(negatives / positives) in [0.1, 10] and weights divided by their mean: (B, M)."""
    share = targets_BHW.mean(dim=(1, 2)).clamp(1e-4, 1 - 1e-4)
    positive = ((1 - share) / share).sqrt().clamp(1 / 10, 10)[:, None, None]
    weight = 1 + (positive - 1) * targets_BHW
    weight = weight / weight.mean(dim=(1, 2), keepdim=True)
    targets = targets_BHW[:, None].expand_as(logits_BMHW)
    entropy = F.binary_cross_entropy_with_logits(logits_BMHW, targets, reduction="none")
    return (entropy * weight[:, None]).mean(dim=(2, 3))


def dice_loss(logits_BMHW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
    """Return 1 - dice, smoothed by one pixel: (B, M)."""
    chance = torch.sigmoid(logits_BMHW)
    overlap = torch.einsum("bmhw,bhw->bm", chance, targets_BHW)
    total = chance.sum(dim=(2, 3)) + targets_BHW.sum(dim=(1, 2))[:, None]
    return 1 - (2 * overlap + 1) / (total + 1)


def mask_loss(
    logits_BMHW: torch.Tensor, targets_BHW: torch.Tensor, config: TrainConfig
) -> torch.Tensor:
    """Return the mask loss of `config`, (B, M)."""
    dice = dice_loss(logits_BMHW, targets_BHW)
    if config.mask_loss == "focal":
        return 20 * focal_loss(logits_BMHW, targets_BHW) + dice
    return 2 * balanced_loss(logits_BMHW, targets_BHW) + dice


@torch.no_grad()
def true_iou(logits_BMHW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
    """Return the IoU of the thresholded outputs with the true masks, (B, M) in [0, 1]."""
    predicted = logits_BMHW > 0
    truth = (targets_BHW > 0.5)[:, None]
    overlap = (predicted & truth).sum(dim=(2, 3))
    union = (predicted | truth).sum(dim=(2, 3))
    return overlap / union.clamp(min=1)
