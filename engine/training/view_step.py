"""One training step on views: every click may mean several nested masks.

A lone click is answered with three masks. Where the pool knows several masks under it, the three
are matched with up to three of them (as Semantic-SAM does, Li et al., 2023), so that no granularity
is punished for not being another. Corrections and boxes mean the first, wanted mask alone.

R = prompts of a step, M = outputs, T = targets, h = low-resolution side.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from torch.nn import functional as F

from engine.sam.decode import PromptBatch, decode_undrawn
from engine.training.render import Views
from engine.training.step import SINGLE_WEIGHT, SPREAD_WEIGHT, feed_back

MATCHED_SHARE = 0.2
"""Share of the predicted IoU's target that is the IoU with the best of the masks under the click;
the rest is that with the wanted one. The first alone makes all sure, the second makes a part that
is drawn well look bad."""

CENTRAL_SHARE = 0.5
"""Clicks at the middle of their region; the others anywhere in it."""

LEVELS = 6
"""Halvings of the grid over which a region's middle is looked for."""

CHUNK = 256
"""Prompts decoded at once, at most."""


def pair_losses(logits_RMHW: torch.Tensor, targets_RTHW: torch.Tensor) -> torch.Tensor:
    """2 x balanced cross entropy + dice of every output with every target, (R, M, T).

    The same numbers as `engine.training.losses` gives pair by pair, as matrix products.
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
    """IoU of every thresholded output with every target, (R, M, T)."""
    found, wanted = (logits_RMHW > 0).flatten(2).float(), (targets_RTHW > 0.5).flatten(2).float()
    overlap = found @ wanted.mT
    total = found.sum(dim=2)[:, :, None] + wanted.sum(dim=2)[:, None]
    return overlap / (total - overlap).clamp(min=1)


def matched_loss(losses_RMT: torch.Tensor, valid_RT: torch.Tensor) -> torch.Tensor:
    """The least mean loss of three outputs, each matched with one target, over all ways to match
    them, (R,)."""
    count = valid_RT.sum(dim=1).clamp(min=1)
    ways = [
        torch.stack([losses_RMT[:, m, t] * valid_RT[:, t] for t, m in enumerate(order)]).sum(dim=0)
        for order in permutations(range(3))
    ]
    return torch.stack(ways).min(dim=0).values / count


def middles(region_RHW: torch.Tensor) -> torch.Tensor:
    """How much of a region lies around each of its places, over squares of 2 to 64 places: largest
    near the region's middle, 0 outside."""
    level = region_RHW[:, None].float()
    side = level.shape[-1]
    total = level.clone()
    for _ in range(LEVELS):
        level = F.avg_pool2d(level, 2, ceil_mode=True)
        total = total + F.interpolate(level, size=(side, side), mode="bilinear")
    return (total * region_RHW[:, None])[:, 0]


def pick_place(
    region_RHW: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A place (column, row) of each region, (R,) each; any where the region is empty."""
    device = region_RHW.device
    noise = torch.rand(region_RHW.shape, generator=generator, device=device)
    central = torch.rand((len(region_RHW), 1, 1), generator=generator, device=device)
    wanted = torch.where(central < CENTRAL_SHARE, middles(region_RHW) + 0.05 * noise, 1 + noise)
    place = (wanted * region_RHW + 1e-6 * noise).flatten(1).argmax(dim=1)
    side = region_RHW.shape[-1]
    return place % side, place // side


class ViewStep:
    """Losses of a step, whose gradients are added to the parameters'."""

    def __init__(self, sam: Any, *, iou_weight: float, box_noise: float, autocast: bool) -> None:
        self.sam, self.iou_weight, self.box_noise = sam, iou_weight, box_noise
        self.autocast = autocast
        # a bfloat16 copy of the decoder, not autocast: its layer norms would answer in float32, and
        # every product after them would convert the image anew
        self._decoder = sam.mask_decoder
        if autocast:
            self._decoder = copy.deepcopy(sam.mask_decoder).bfloat16()

    def run(
        self,
        views: Views,
        rows: tuple[torch.Tensor, torch.Tensor],
        plan: Sequence[bool],
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss and, of the first answers, mean IoU of the best output.

        Args:
            views: of a `Renderer`.
            rows: indices into R of clicks and of boxes.
            plan: `prompt_plan`.
            generator: draws clicks and noise, on the views' device.
        """
        self._refresh()
        trained = any(value.requires_grad for value in self.sam.image_encoder.parameters())
        with self._half(), torch.set_grad_enabled(trained):
            embeddings = self.sam.image_encoder(views.images_B3VV)
        features = embeddings.detach().float().requires_grad_(trained)
        count = len(views.targets_RTHH)
        prompts = count // len(views.images_B3VV)
        total, ious = [], []
        for index, with_box in ((rows[0], False), (rows[1], True)):
            for part in torch.split(index, CHUNK):
                if len(part):
                    loss, iou = self._prompted(
                        features, views, part, prompts, with_box, plan, generator, count
                    )
                    total.append(loss)
                    ious.append(iou)
        if features.grad is not None:
            torch.autograd.backward(embeddings, features.grad.to(embeddings.dtype))
        self._gather()
        return torch.stack(total).sum(), torch.stack(ious).sum() / count

    @torch.no_grad()
    def _refresh(self) -> None:
        """Bring the decoder's copy up to date."""
        if self._decoder is self.sam.mask_decoder:
            return
        mine, theirs = list(self._decoder.parameters()), list(self.sam.mask_decoder.parameters())
        torch._foreach_copy_(mine, theirs)
        for value in mine:
            value.grad = None

    def _gather(self) -> None:
        """Give the copy's gradients to the decoder."""
        if self._decoder is self.sam.mask_decoder:
            return
        for mine, value in zip(
            self._decoder.parameters(), self.sam.mask_decoder.parameters(), strict=True
        ):
            value.grad = None if mine.grad is None else mine.grad.float()

    def _half(self) -> Any:
        return torch.autocast(self.sam.device.type, torch.bfloat16, enabled=self.autocast)

    def _prompted(
        self,
        features: torch.Tensor,
        views: Views,
        rows: torch.Tensor,
        prompts: int,
        with_box: bool,
        plan: Sequence[bool],
        generator: torch.Generator,
        count: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images = rows // prompts
        targets, valid = views.targets_RTHH[rows], views.is_valid_RT[rows]
        background = views.is_background_R[rows]
        counted = (background | valid[:, 0]).float()
        first = self._first_region(targets, valid, background, views, images)
        boxes = points = labels = None
        if with_box:
            boxes = self._boxes(targets[:, 0], generator)
        else:
            points = self._points(first, generator)[:, None]
            labels = torch.ones_like(points[..., 0], dtype=torch.int64)
            valid = valid & self._holds(targets, points[:, 0])
            valid[:, 0] = counted.bool() & ~background
        logits = None
        total, first_iou = features.new_zeros(()), features.new_zeros(())
        for iteration in range(1 + len(plan)):
            batch = PromptBatch(images, points, labels, boxes, logits)
            decoded = decode_undrawn(self.sam, features, batch, decoder=self._decoder)
            masks, scores = decoded.draw().float(), decoded.scores_B4.float()
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
                    points, labels = self._corrected(logits, targets, points, labels, generator)
        return total, first_iou

    def _first_region(
        self,
        targets: torch.Tensor,
        valid: torch.Tensor,
        background: torch.Tensor,
        views: Views,
        images: torch.Tensor,
    ) -> torch.Tensor:
        """Where a first click may fall: in all the masks it may mean, else in the wanted one."""
        inside = (targets > 0.5) | ~valid[:, :, None, None]
        both = inside.all(dim=1) & (targets[:, 0] > 0.5)
        enough = both.flatten(1).sum(dim=1) > 3
        region = torch.where(enough[:, None, None], both, targets[:, 0] > 0.5)
        return torch.where(background[:, None, None], views.elsewhere_BHH[images], region)

    def _holds(self, targets: torch.Tensor, points_R2: torch.Tensor) -> torch.Tensor:
        """Which targets the first click is in, (R, T)."""
        side = targets.shape[-1]
        cell = self.sam.image_encoder.img_size / side
        place = (points_R2 / cell).long().clamp(0, side - 1)
        rows = torch.arange(len(targets), device=targets.device)
        held: torch.Tensor = targets[rows, :, place[:, 1], place[:, 0]] > 0.5
        return held

    def _points(self, region: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A click in each region, (R, 2) in pixels of the model's input."""
        x, y = pick_place(region, generator)
        cell = float(self.sam.image_encoder.img_size) / region.shape[-1]
        corner = torch.stack([x, y], dim=1).float() * cell
        shift = torch.rand(corner.shape, generator=generator, device=corner.device)
        return corner + shift * cell - 0.5

    def _boxes(self, targets_RHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Noisy boxes, (R, 4) half-open XYXY in pixels of the model's input (SAM, appendix A)."""
        wanted = targets_RHW > 0.5
        side = wanted.shape[-1]
        size = float(self.sam.image_encoder.img_size)
        edges = []
        for along in (wanted.any(dim=1), wanted.any(dim=2)):
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
        """Of each prompt the loss (R,), and every output's IoU with the wanted mask (R, M)."""
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
        drawn = weights[0] * losses[:, 0, 0] + weights[1] * three
        drawn = torch.where(background, torch.zeros_like(drawn), drawn)
        wanted = ious[..., 0]
        best = (ious * valid[:, None]).max(dim=2).values
        aim = MATCHED_SHARE * best + (1 - MATCHED_SHARE) * wanted
        aim = torch.cat([wanted[:, :1], aim[:, 1:]], dim=1)
        aim = torch.where(background[:, None], torch.zeros_like(aim), aim)
        quality = ((scores - aim) ** 2).mean(dim=1) * 4
        loss: torch.Tensor = drawn + self.iou_weight * quality
        return loss, wanted

    def _corrected(
        self,
        logits_R1HW: torch.Tensor,
        targets: torch.Tensor,
        points: torch.Tensor | None,
        labels: torch.Tensor | None,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One more click, in the region of error; in the mask where there is none."""
        wanted = targets[:, 0] > 0.5
        wrong = (logits_R1HW[:, 0] > 0) != wanted
        empty = ~wrong.flatten(1).any(dim=1)
        wrong = torch.where(empty[:, None, None], wanted, wrong)
        missed, extra = wrong & wanted, wrong & ~wanted
        is_missed = middles(missed).flatten(1).amax(dim=1) >= middles(extra).flatten(1).amax(dim=1)
        region = torch.where(is_missed[:, None, None], missed, extra)
        fresh = self._points(region, generator)[:, None]
        label = is_missed.long()[:, None]
        if points is None or labels is None:
            return fresh, label
        return torch.cat([points, fresh], dim=1), torch.cat([labels, label], dim=1)
