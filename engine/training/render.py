"""Rendering of plans on the device: samples images and masks, pastes cut-outs, changes colours.

B images, G prompts per image, R = B x G prompts, T nested masks per prompt, S = canvas side,
V = view side, H = V / 2 = side of the low-resolution masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from engine.training.photo_pool import PhotoPool
from engine.training.view_plan import BACKGROUND, Plan

MIN_CELLS = 12
"""Masks of fewer low-resolution cells, after cropping and pasting, are not trained on."""


@dataclass(frozen=True, slots=True)
class Views:
    """Normalised images, 0 in the padding; share of each cell that a target covers, and whether the
    target is large enough; which prompts are clicks on no object; cells of no object."""

    images_B3VV: torch.Tensor
    targets_RTHH: torch.Tensor
    is_valid_RT: torch.Tensor
    is_background_R: torch.Tensor
    elsewhere_BHH: torch.Tensor


class Renderer:
    """Renders views of V = `size` pixels from a pool, which it copies to the model's device."""

    def __init__(self, pool: PhotoPool, sam: Any, size: int) -> None:
        self.device, self.size = sam.device, size
        self.canvas = torch.from_numpy(pool.canvas_NSSC).to(self.device)
        self.packed = torch.from_numpy(pool.packed_MSB).to(self.device)
        self.mean, self.std = sam.pixel_mean, sam.pixel_std
        self._bits = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], device=self.device)
        self._bits = self._bits.to(torch.uint8)

    def masks(self, index_K: torch.Tensor, affine_K23: torch.Tensor) -> torch.Tensor:
        """Return K masks in the frames of their views, float32 (K, V, V) in [0, 1].

        Args:
            index_K: indices of masks, int64.
            affine_K23: view pixels to canvas pixels.
        """
        rows = self.packed[index_K]
        bits = (rows[..., None] & self._bits).ne(0).flatten(2)
        return self._sample(bits[:, None].float(), affine_K23, "zeros")[:, 0]

    def _sample(self, source: torch.Tensor, affine_K23: torch.Tensor, padding: str) -> torch.Tensor:
        """Sample (K, C, S, S) at the views' pixels: (K, C, V, V)."""
        side = source.shape[-1]
        middles = torch.arange(self.size, device=self.device) + 0.5
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        places = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        grid = torch.einsum("krc,hwc->khwr", affine_K23, places) * (2 / side) - 1
        return F.grid_sample(source, grid, padding_mode=padding, align_corners=False)

    def _images(self, index_K: torch.Tensor, affine_K23: torch.Tensor) -> torch.Tensor:
        source = self.canvas[index_K].permute(0, 3, 1, 2).contiguous().float()
        coarse = affine_K23[:, :, :2].det().abs().sqrt() > 1.4  # canvas pixels per view pixel
        blurred = F.avg_pool2d(source, 3, stride=1, padding=1)
        source = torch.where(coarse[:, None, None, None], blurred, source)
        return self._sample(source, affine_K23, "border")

    @torch.no_grad()
    def draw(self, drawn: Plan, generator: torch.Generator) -> Views:
        """Render a plan that lies on the CPU. Sizes that depend on the plan are computed there, so
        that the CPU never waits for the device."""
        plan = drawn.to(self.device)
        images = self._images(plan.image_B, plan.affine_B23)
        batch, prompts, targets = plan.masks_BGT.shape
        known = torch.nonzero(drawn.masks_BGT.flatten() >= 0)[:, 0].to(self.device)
        masks = images.new_zeros((batch * prompts * targets, self.size, self.size))
        index = plan.masks_BGT.flatten()[known]
        masks[known] = self.masks(index, plan.affine_B23[known // (prompts * targets)])
        masks = masks.reshape(batch, prompts, targets, self.size, self.size)
        covered = self.masks(plan.covered_B.clamp(min=0), plan.affine_B23)
        covered = torch.where((plan.covered_B >= 0)[:, None, None], covered, 1.0)
        self._paste(drawn, plan, images, masks, covered)
        images = _recolour(images, generator)
        inside = self._inside_extent(plan.extent_B2)
        normed = (images - self.mean) / self.std * inside[:, None]
        low = F.avg_pool2d(masks.flatten(0, 2)[:, None].float(), 2)[:, 0]
        low = low.reshape(batch * prompts, targets, *low.shape[1:])
        low = low * F.avg_pool2d(inside[:, None], 2).repeat_interleave(prompts, dim=0)
        background = plan.kind_BG.flatten() == BACKGROUND
        low = low * ~background[:, None, None, None]
        valid = (low > 0.5).sum(dim=(2, 3)) >= MIN_CELLS
        free = 1 - F.max_pool2d(covered[:, None].float(), 5, stride=1, padding=2)
        elsewhere = F.avg_pool2d(free * inside[:, None], 2)[:, 0] > 0.9
        return Views(normed, low, valid, background, elsewhere)

    def _inside_extent(self, extent_B2: torch.Tensor) -> torch.Tensor:
        middles = torch.arange(self.size, device=self.device) + 0.5
        x = middles[None, :] < extent_B2[:, :1]
        y = middles[None, :] < extent_B2[:, 1:]
        return (y[:, :, None] & x[:, None, :]).float()

    def _paste(
        self,
        drawn: Plan,
        plan: Plan,
        images: torch.Tensor,
        masks: torch.Tensor,
        covered: torch.Tensor,
    ) -> None:
        """Paste cut-outs over images, masks and covered pixels, in place."""
        for slot in range(drawn.paste_mask_BP.shape[1]):
            pasted = torch.nonzero(drawn.paste_mask_BP[:, slot] >= 0)[:, 0]
            if not len(pasted):
                continue
            rows = pasted.to(self.device)
            affine = plan.paste_affine_BP23[rows, slot]
            cut = self.masks(plan.paste_mask_BP[rows, slot], affine)
            pixels = self._images(plan.paste_image_BP[rows, slot], affine)
            soft = F.avg_pool2d(cut[:, None], 3, stride=1, padding=1)
            images[rows] = images[rows] * (1 - soft) + pixels * soft
            masks[rows] = masks[rows] * (1 - cut)[:, None, None]
            covered[rows] = torch.maximum(covered[rows], cut)
            prompt = drawn.paste_prompt_BP[pasted, slot]
            place = torch.nonzero(prompt >= 0)[:, 0]
            index, target = place.to(self.device), prompt[place].to(self.device)
            masks[rows[index], target] = 0
            masks[rows[index], target, 0] = cut[index]


def _recolour(images_B3VV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, contrast, gamma and tint at random; make some images grey, blurred or
    noisy. Values are in [0, 255]."""
    count, device = len(images_B3VV), images_B3VV.device

    def uniform(low: float, high: float, channels: int = 1) -> torch.Tensor:
        number = torch.rand((count, channels, 1, 1), generator=generator, device=device)
        return low + (high - low) * number

    def sometimes(share: float, changed: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        return torch.where(uniform(0, 1) < share, changed, kept)

    images = images_B3VV
    grey = images.mean(dim=1, keepdim=True).expand_as(images)
    images = sometimes(0.08, grey, images)
    images = sometimes(0.15, F.avg_pool2d(images, 3, stride=1, padding=1), images)
    mean = images.mean(dim=(2, 3), keepdim=True)
    changed = (images - mean) * uniform(0.7, 1.3) + mean * uniform(0.75, 1.25) * uniform(
        0.9, 1.1, 3
    )
    images = sometimes(0.75, changed, images).clamp(0, 255)
    images = sometimes(0.3, 255 * (images / 255 + 1e-4) ** uniform(0.7, 1.4), images)
    noise = torch.randn(images.shape, generator=generator, device=device) * uniform(1, 8)
    return sometimes(0.2, images + noise, images).clamp(0, 255)
