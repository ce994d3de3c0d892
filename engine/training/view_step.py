"""One training step on views, in which a click can have several nested masks as targets.

The model predicts three masks for a lone click. They are matched with up to three masks of the pool
under the click (as in Semantic-SAM, Li et al., 2023), so that no granularity is penalised for not
being another. Corrections and boxes have the first mask as their only target.

R = prompts of a step, M = outputs, T = targets, H = W = low-resolution side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from torch.nn import functional as F

from engine.sam.decode import PromptBatch, decode_without_masks
from engine.training.drawn_clicks import correction_regions, pick_points
from engine.training.half_decoder import half_decoder, prompts_at_once
from engine.training.render import Views
from engine.training.step import SINGLE_WEIGHT, SPREAD_WEIGHT, feed_back

MATCHED_SHARE = 0.2
"""The target of predicted IoU is a weighted mean: this share for the highest IoU with any target
mask, the rest for the IoU with the first. The highest alone makes every output confident, the first
alone gives a low score to a correctly predicted part."""


def pair_losses(logits_RMHW: torch.Tensor, targets_RTHW: torch.Tensor) -> torch.Tensor:
    """Return 2 x balanced cross entropy + dice of every output with every target, (R, M, T).

    The values equal those of `engine.training.losses` for each pair, computed by matrix products.
    """
    logits, targets = logits_RMHW.flatten(2).float(), targets_RTHW.flatten(2).float()
    places = logits.shape[-1]
    share = targets.mean(dim=2, keepdim=True).clamp(1e-4, 1 - 1e-4)
    positive = ((1 - share) / share).sqrt().clamp(1 / 10, 10)
    weight = 1 + (positive - 1) * targets
    weight = weight / weight.mean(dim=2, keepdim=True)
    entropy = F.softplus(logits) @ weight.mT - logits @ (weight * targets).mT
    chance = torch.sigmoid(logits)
    overlap = chance @ targets.mT
    total = chance.sum(dim=2)[:, :, None] + targets.sum(dim=2)[:, None]
    return 2 * entropy / places + 1 - (2 * overlap + 1) / (total + 1)


@torch.no_grad()
def pair_ious(logits_RMHW: torch.Tensor, targets_RTHW: torch.Tensor) -> torch.Tensor:
    """Return the IoU of every thresholded output with every target, (R, M, T) in [0, 1]."""
    predicted, truth = (logits_RMHW > 0).flatten(2).float(), (targets_RTHW > 0.5).flatten(2).float()
    overlap = predicted @ truth.mT
    total = predicted.sum(dim=2)[:, :, None] + truth.sum(dim=2)[:, None]
    return overlap / (total - overlap).clamp(min=1)


def matched_loss(losses_RMT: torch.Tensor, valid_RT: torch.Tensor) -> torch.Tensor:
    """Return the lowest mean loss over all one-to-one matchings of three outputs with the valid
    targets, (R,)."""
    count = valid_RT.sum(dim=1).clamp(min=1)
    ways = [
        torch.stack([losses_RMT[:, m, t] * valid_RT[:, t] for t, m in enumerate(order)]).sum(dim=0)
        for order in permutations(range(3))
    ]
    return torch.stack(ways).min(dim=0).values / count


class ViewStep:
    """Computes the loss of a step and adds its gradients to the parameters'; `autocast` encodes and
    decodes in bfloat16, the weights are those of `TrainConfig`."""

    def __init__(self, sam: Any, *, iou_weight: float, box_noise: float, autocast: bool) -> None:
        self.sam, self.iou_weight, self.box_noise = sam, iou_weight, box_noise
        self.autocast = autocast

    def run(
        self,
        views: Views,
        rows: tuple[torch.Tensor, torch.Tensor],
        plan: Sequence[bool],
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean loss, and the mean IoU of the best output after the first prompt.

        Args:
            views: the result of `Renderer.draw`.
            rows: indices into R of prompts that start with a click, and with a box.
            plan: the result of `prompt_plan`.
            generator: draws clicks and noise, on the views' device.
        """
        trained = any(value.requires_grad for value in self.sam.image_encoder.parameters())
        with self._autocast(), torch.set_grad_enabled(trained):
            embeddings = self.sam.image_encoder(views.images_B3VV)
        features = embeddings.detach().float().requires_grad_(trained)
        count = len(views.targets_RTHH)
        prompts = count // len(views.images_B3VV)
        total, ious = [], []
        at_once = prompts_at_once(features.device.type)
        with half_decoder(self.sam, enabled=self.autocast) as decoder:
            for index, with_box in ((rows[0], False), (rows[1], True)):
                for part in torch.split(index, at_once):
                    if len(part):
                        loss, iou = self._run_prompts(
                            decoder, features, views, part, prompts, with_box, plan, generator
                        )
                        total.append(loss)
                        ious.append(iou)
        if features.grad is not None:
            torch.autograd.backward(embeddings, features.grad.to(embeddings.dtype))
        return torch.stack(total).sum(), torch.stack(ious).sum() / count

    def _autocast(self) -> Any:
        return torch.autocast(self.sam.device.type, torch.bfloat16, enabled=self.autocast)

    def _run_prompts(
        self,
        decoder: Any,
        features: torch.Tensor,
        views: Views,
        rows: torch.Tensor,
        prompts: int,
        with_box: bool,
        plan: Sequence[bool],
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count, images = len(views.targets_RTHH), rows // prompts
        targets, valid = views.targets_RTHH[rows], views.is_valid_RT[rows]
        background = views.is_background_R[rows]
        counted = (background | valid[:, 0]).float()
        first = self._first_region(targets, valid, background, views, images)
        boxes = points = labels = None
        if with_box:
            boxes = self._sample_boxes(targets[:, 0], generator)
        else:
            points = pick_points(first, self.sam.image_encoder.img_size, generator)[:, None]
            labels = torch.ones_like(points[..., 0], dtype=torch.int64)
            valid = valid & self._contains_points(targets, points[:, 0])
            valid[:, 0] = counted.bool() & ~background
        logits = None
        total, first_iou = features.new_zeros(()), features.new_zeros(())
        for iteration in range(1 + len(plan)):
            batch = PromptBatch(images, points, labels, boxes, logits)
            decoded = decode_without_masks(self.sam, features, batch, decoder=decoder)
            masks, scores = decoded.masks().float(), decoded.scores_B4.float()
            single = with_box or iteration > 0
            loss, iou = self._loss(masks, scores, targets, valid, background, single)
            loss = (loss * counted).sum() / (count * (1 + len(plan)))
            torch.autograd.backward(loss)
            total = total + loss.detach()
            if iteration == 0:
                best = iou[:, 0] if single else iou[:, 1:].max(dim=1).values
                first_iou = (best * counted).sum()
            if iteration < len(plan):
                logits = feed_back(masks, scores, single)
                if plan[iteration]:
                    points, labels = self._add_click(logits, targets, points, labels, generator)
        return total, first_iou

    def _first_region(
        self,
        targets: torch.Tensor,
        valid: torch.Tensor,
        background: torch.Tensor,
        views: Views,
        images: torch.Tensor,
    ) -> torch.Tensor:
        """Return the region of the first click: the intersection of its targets, or else the first
        target; the cells of no object for a background click."""
        inside = (targets > 0.5) | ~valid[:, :, None, None]
        both = inside.all(dim=1) & (targets[:, 0] > 0.5)
        enough = both.flatten(1).sum(dim=1) > 3
        region = torch.where(enough[:, None, None], both, targets[:, 0] > 0.5)
        return torch.where(background[:, None, None], views.elsewhere_BHH[images], region)

    def _contains_points(self, targets: torch.Tensor, points_R2: torch.Tensor) -> torch.Tensor:
        """Return which targets contain the first click, bool (R, T)."""
        side = targets.shape[-1]
        cell = self.sam.image_encoder.img_size / side
        place = (points_R2 / cell).long().clamp(0, side - 1)
        rows = torch.arange(len(targets), device=targets.device)
        held: torch.Tensor = targets[rows, :, place[:, 1], place[:, 0]] > 0.5
        return held

    def _sample_boxes(self, targets_RHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw noisy boxes, (R, 4) half-open XYXY in pixels of the model's input (SAM, appendix
        A)."""
        truth = targets_RHW > 0.5
        side = truth.shape[-1]
        size = float(self.sam.image_encoder.img_size)
        edges = []
        for along in (truth.any(dim=1), truth.any(dim=2)):
            low = along.float().argmax(dim=1)
            high = side - along.flip(1).float().argmax(dim=1)
            edges.append((low, high))
        (x0, x1), (y0, y1) = edges
        boxes = torch.stack([x0, y0, x1, y1], dim=1).float() * (size / side)
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        device = boxes.device
        noise = torch.randn(boxes.shape, generator=generator, device=device)
        noisy = torch.rand((len(boxes), 1), generator=generator, device=device) < 0.7
        boxes = boxes + noise * (self.box_noise * sides).clamp(max=20) * noisy
        boxes = boxes.clamp(0, size)
        return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)

    def _loss(
        self,
        masks: torch.Tensor,
        scores: torch.Tensor,
        targets: torch.Tensor,
        valid: torch.Tensor,
        background: torch.Tensor,
        single: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each prompt's loss (R,), and every output's IoU with the first target (R, M)."""
        if single:
            targets, valid = targets[:, :1], valid[:, :1]
        losses = pair_losses(masks, targets)
        ious = pair_ious(masks, targets)
        if single:
            matched = losses[:, 1:, 0].min(dim=1).values
            weights = (1.0, SINGLE_WEIGHT)
        else:
            matched = matched_loss(losses[:, 1:], valid.float())
            weights = (SINGLE_WEIGHT, 1.0)
        three = matched + SPREAD_WEIGHT * losses[:, 1:, 0].mean(dim=1)
        mask_term = weights[0] * losses[:, 0, 0] + weights[1] * three
        mask_term = torch.where(background, torch.zeros_like(mask_term), mask_term)
        first = ious[..., 0]
        best = (ious * valid[:, None]).max(dim=2).values
        target_iou = MATCHED_SHARE * best + (1 - MATCHED_SHARE) * first
        target_iou = torch.cat([first[:, :1], target_iou[:, 1:]], dim=1)
        target_iou = torch.where(background[:, None], torch.zeros_like(target_iou), target_iou)
        iou_term = ((scores - target_iou) ** 2).mean(dim=1) * 4
        loss: torch.Tensor = mask_term + self.iou_weight * iou_term
        return loss, first

    def _add_click(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        points: torch.Tensor | None,
        labels: torch.Tensor | None,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append a click in the larger error region, or in the mask if there is no error."""
        region, is_missed = correction_regions(logits[:, 0] > 0, targets[:, 0] > 0.5)
        fresh = pick_points(region, self.sam.image_encoder.img_size, generator)[:, None]
        label = is_missed.long()[:, None]
        if points is None or labels is None:
            return fresh, label
        return torch.cat([points, fresh], dim=1), torch.cat([labels, label], dim=1)
