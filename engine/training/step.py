"""One batch of training: encode the images once, prompt several times, accumulate gradients.

After the first prompt, every iteration adds one click in the error region and feeds the previous
mask's logits back (SAM, section 3 and appendix A). The logits are detached, so that each iteration
runs its own backward pass and needs the memory of one iteration.

B = masks over all images of the step, S = training side, h = low-resolution side (S / 2 for
`lite`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine.sam.decode import PromptBatch, decode_without_masks, preprocess
from engine.training.config import TrainConfig
from engine.training.drawn_clicks import correction_regions, pick_points
from engine.training.half_decoder import half_decoder, prompts_at_once
from engine.training.losses import mask_loss, true_iou
from engine.training.samples import Sample

SPREAD_WEIGHT = 0.05
"""Weight of the mean loss of the three outputs, in addition to their minimum, so that every output
gets a gradient."""

SINGLE_WEIGHT = 0.3
"""Weight of the outputs that do not count: the single mask after a lone click, the three masks
after other prompts."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Mean loss over masks and prompt iterations, and mean true IoU of the best output after the
    first prompt."""

    loss: float
    iou: float


class _Clicks:
    """Point prompts of B masks, to which every iteration adds one click."""

    def __init__(self, points_BN2: torch.Tensor | None, labels_BN: torch.Tensor | None) -> None:
        self.points = points_BN2
        self.labels = labels_BN

    def add(self, points_B2: torch.Tensor, labels_B: torch.Tensor) -> None:
        fresh_points, fresh_labels = points_B2[:, None], labels_B[:, None]
        if self.points is None or self.labels is None:
            self.points, self.labels = fresh_points, fresh_labels
        else:
            self.points = torch.cat([self.points, fresh_points], dim=1)
            self.labels = torch.cat([self.labels, fresh_labels], dim=1)


def training_step(
    sam: Any,
    samples: list[Sample],
    config: TrainConfig,
    rng: np.random.Generator,
    generator: torch.Generator,
    plan: Sequence[bool],
    scale: float = 1.0,
) -> StepResult:
    """Compute the loss of one batch, and add its gradients to the parameters' unless gradients are
    off (`torch.no_grad`).

    Args:
        sam: the model, in training mode.
        samples: results of `make_sample`.
        config: shares, losses and their weights.
        rng: draws which masks start with their box.
        generator: draws the clicks in error regions.
        plan: one item per prompt iteration after the first: True adds a click, False feeds back
            the previous mask alone.
        scale: factor of the gradients.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("expected at least one sample, got none")
    device = sam.device
    half = config.precision == "bfloat16"
    if all(sample.embedding is not None for sample in samples):
        embeddings = torch.stack([sample.embedding for sample in samples]).float()
    else:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            embeddings = encode_samples(sam, samples)
    is_box = rng.random(len(samples) * config.masks_per_image) < config.box_share
    background = np.concatenate([s.is_background_K for s in samples])
    # the decoder's gradients are summed here, and the encoder's backward pass runs once
    features = embeddings.detach().float().requires_grad_(embeddings.requires_grad)
    losses, ious = [], []
    at_once = prompts_at_once(device.type)
    with half_decoder(sam, enabled=half) as decoder:
        for of_kind, with_box in (
            (np.flatnonzero(~is_box | background), False),
            (np.flatnonzero(is_box & ~background), True),
        ):
            for first in range(0, len(of_kind), at_once):
                rows = of_kind[first : first + at_once]
                batch = _PromptGroup(samples, rows, with_box, config, device)
                share = len(rows) / len(is_box)
                loss, iou = batch.run(sam, decoder, features, plan, generator, scale * share)
                losses.append(loss * share)
                ious.append(iou * share)
    if features.grad is not None:
        torch.autograd.backward(embeddings, features.grad.to(embeddings.dtype))
    return StepResult(sum(losses), sum(ious))


def prompt_plan(config: TrainConfig, rng: np.random.Generator) -> list[bool]:
    """Draw the prompt iterations after the first (SAM, appendix A): True for a click, False for
    `repeats`, one of which is last and the others at random positions."""
    clicks = config.refinements
    if config.vary_refinements:
        clicks = int(rng.integers(0, clicks + 1))
    plan = [True] * clicks
    if clicks and config.repeats:
        for _ in range(config.repeats - 1):
            plan.insert(int(rng.integers(0, len(plan) + 1)), False)
        plan.append(False)
    return plan


def encode_samples(sam: Any, samples: Sequence[Sample]) -> torch.Tensor:
    """Encode the samples' images, (images, C, h, w)."""
    images = torch.from_numpy(np.stack([s.image_SSC for s in samples])).to(sam.device)
    embeddings: torch.Tensor = sam.image_encoder(_normalise(sam, images, samples))
    return embeddings


def _normalise(sam: Any, images_BSSC: torch.Tensor, samples: Sequence[Sample]) -> torch.Tensor:
    """Normalise images and set their padding to zero, because SAM pads after normalising."""
    normed = preprocess(sam, images_BSSC.permute(0, 3, 1, 2).float())
    for index, sample in enumerate(samples):
        normed[index, :, sample.size[0] :] = 0
        normed[index, :, :, sample.size[1] :] = 0
    return normed


def feed_back(masks: torch.Tensor, scores: torch.Tensor, single: bool) -> torch.Tensor:
    """Return the logits of one of four masks (B, 4, h, h), detached: (B, 1, h, h).

    It is the single-mask output, or else the most confident of the others. Logits are clamped, as
    in SAM 2, so that a confident mask can still be corrected.
    """
    if single:
        chosen = masks[:, :1]
    else:
        best = 1 + scores[:, 1:].argmax(dim=1)
        chosen = masks[torch.arange(len(masks), device=masks.device), best][:, None]
    return chosen.detach().clamp(-32, 32)


class _PromptGroup:
    """The masks of one step whose first prompt has the same form."""

    def __init__(
        self,
        samples: list[Sample],
        rows: np.ndarray,
        with_box: bool,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        per_image = config.masks_per_image
        self.config, self.with_box = config, with_box
        self.image_index = torch.from_numpy(rows // per_image).to(device)
        picked = [(samples[row // per_image], row % per_image) for row in rows]
        masks = np.stack([sample.masks_KSS[k] for sample, k in picked])
        self.masks = torch.from_numpy(masks).to(device)
        self.background = torch.tensor(
            [bool(sample.is_background_K[k]) for sample, k in picked], device=device
        )
        self.clicks = np.stack([sample.clicks_K2[k] for sample, k in picked])
        self.boxes = np.stack([sample.boxes_K4[k] for sample, k in picked])

    def run(
        self,
        sam: Any,
        decoder: Any,
        embeddings: torch.Tensor,
        plan: Sequence[bool],
        generator: torch.Generator,
        scale: float,
    ) -> tuple[float, float]:
        """Return the mean loss over masks and iterations, and the mean IoU after the first prompt;
        add the loss's gradients times `scale` to the parameters'."""
        device, config = embeddings.device, self.config
        # prompts are in pixels of the model's own input, whatever the training size
        zoom = sam.image_encoder.img_size / config.image_size
        low = 4 * int(embeddings.shape[-1])
        targets = F.interpolate(self.masks[:, None].float(), size=(low, low), mode="area")[:, 0]
        boxes = torch.from_numpy(self.boxes).to(device) * zoom if self.with_box else None
        clicks = _Clicks(None, None)
        if not self.with_box:
            first = torch.from_numpy(self.clicks).to(device) * zoom
            clicks.add(first, torch.ones(len(first), dtype=torch.int64, device=device))
        logits: torch.Tensor | None = None
        total, first_iou = 0.0, 0.0
        for iteration in range(1 + len(plan)):
            prompt = PromptBatch(self.image_index, clicks.points, clicks.labels, boxes, logits)
            decoded = decode_without_masks(sam, embeddings, prompt, decoder=decoder)
            masks, scores = decoded.masks().float(), decoded.scores_B4.float()
            single = iteration > 0 or self.with_box
            loss, iou = self._loss(masks, scores, targets, single)
            if loss.requires_grad:
                torch.autograd.backward(loss * (scale / (1 + len(plan))))
            total += float(loss.detach())
            if iteration == 0:
                best = iou[:, :1] if single else iou[:, 1:]
                first_iou = float(best.max(dim=1).values.mean())
            if iteration < len(plan):
                logits = feed_back(masks, scores, single)
                if plan[iteration]:
                    region, adds = correction_regions(logits[:, 0] > 0, targets > 0.5)
                    side = sam.image_encoder.img_size
                    clicks.add(pick_points(region, side, generator), adds.long())
        return total / (1 + len(plan)), first_iou

    def _loss(
        self, masks: torch.Tensor, scores: torch.Tensor, targets: torch.Tensor, single: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        iou = true_iou(masks, targets)
        per_output = mask_loss(masks, targets, self.config)
        three = per_output[:, 1:].min(dim=1).values + SPREAD_WEIGHT * per_output[:, 1:].mean(dim=1)
        weights = (1.0, SINGLE_WEIGHT) if single else (SINGLE_WEIGHT, 1.0)
        mask_term = weights[0] * per_output[:, 0] + weights[1] * three
        mask_term = torch.where(self.background, torch.zeros_like(mask_term), mask_term)
        target_iou = torch.where(self.background[:, None], torch.zeros_like(iou), iou)
        iou_term = ((scores - target_iou) ** 2).mean(dim=1) * 4
        return (mask_term + self.config.iou_weight * iou_term).mean(), iou
