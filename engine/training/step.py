"""One batch of training: encode the images once, prompt several times, gather the gradients.

B = masks over all images of the step, S = training side, h = low-resolution side (S / 2 for
`lite`). After the first prompt every iteration adds one click in the error region and feeds the
last answer's logits back (SAM, section 3 and appendix A). What is fed back carries no gradient, so
each iteration's gradients are gathered before the next begins: memory is that of one iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine.sam.decode import PromptBatch, decode, preprocess
from engine.training.config import TrainConfig
from engine.training.losses import mask_loss, true_iou
from engine.training.samples import Sample

SPREAD_WEIGHT = 0.05
"""Weight of the mean over the three outputs beside their minimum: keeps all three alive."""

SINGLE_WEIGHT = 0.3
"""Weight of the single-mask output for a lone click, where it is not the one that counts."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """loss: mean over masks and prompt iterations. iou: mean true IoU of the best output after the
    first prompt."""

    loss: float
    iou: float


class _Clicks:
    """The growing point prompts of B masks of one form."""

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
    """Losses of one batch over all samples' masks; their gradients are added to the parameters',
    unless gradients are off (`torch.no_grad`).

    Args:
        sam: the model, in training mode.
        samples: what `make_sample` made.
        config: shares, losses and their weights.
        rng: draws which masks start with their box.
        generator: draws the clicks in error regions.
        plan: prompt iterations after the first: whether each adds a click, or feeds back the last
            answer alone.
        scale: what the gradients are multiplied by.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("a training step needs at least one sample")
    device = sam.device
    if all(sample.embedding is not None for sample in samples):
        embeddings = torch.stack([sample.embedding for sample in samples]).float()
    else:
        embeddings = encode_samples(sam, samples)
    is_box = rng.random(len(samples) * config.masks_per_image) < config.box_share
    background = np.concatenate([s.is_background_K for s in samples])
    # the decoder's gradients stop here, and go through the encoder once, at the end
    features = embeddings.detach().requires_grad_(embeddings.requires_grad)
    losses, ious = [], []
    for rows, with_box in (
        (np.flatnonzero(~is_box | background), False),
        (np.flatnonzero(is_box & ~background), True),
    ):
        if len(rows):
            batch = _Rows(samples, rows, with_box, config, device)
            share = len(rows) / len(is_box)
            loss, iou = batch.run(sam, features, plan, generator, scale * share)
            losses.append(loss * share)
            ious.append(iou * share)
    if features.grad is not None:
        torch.autograd.backward(embeddings, features.grad)
    return StepResult(sum(losses), sum(ious))


def prompt_plan(config: TrainConfig, rng: np.random.Generator) -> list[bool]:
    """The prompt iterations after the first (SAM, appendix A): clicks, and `repeats` without one,
    of which the last comes last and the others at random places."""
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
    """Embeddings of the samples' images, (images, C, h, w)."""
    images = torch.from_numpy(np.stack([s.image_SSC for s in samples])).to(sam.device)
    embeddings: torch.Tensor = sam.image_encoder(_normalised(sam, images, samples))
    return embeddings


def _normalised(sam: Any, images_BSSC: torch.Tensor, samples: Sequence[Sample]) -> torch.Tensor:
    """Normalise, and zero what is padding, as SAM pads after normalising."""
    normed = preprocess(sam, images_BSSC.permute(0, 3, 1, 2).float())
    for index, sample in enumerate(samples):
        normed[index, :, sample.size[0] :] = 0
        normed[index, :, :, sample.size[1] :] = 0
    return normed


def feed_back(masks: torch.Tensor, scores: torch.Tensor, single: bool) -> torch.Tensor:
    """The answer a user would see, as logits (B, 1, h, h), detached; bounded, as SAM 2's are,
    so that a sure answer can still be corrected."""
    if single:
        chosen = masks[:, :1]
    else:
        best = 1 + scores[:, 1:].argmax(dim=1)
        chosen = masks[torch.arange(len(masks), device=masks.device), best][:, None]
    return chosen.detach().clamp(-32, 32)


class _Rows:
    """The masks of one step that start with the same form of prompt."""

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
        # prompts are in the frame of the model's own input, whatever the training size
        self.clicks = np.stack([sample.clicks_K2[k] for sample, k in picked])
        self.boxes = np.stack([sample.boxes_K4[k] for sample, k in picked])

    def run(
        self,
        sam: Any,
        embeddings: torch.Tensor,
        plan: Sequence[bool],
        generator: torch.Generator,
        scale: float,
    ) -> tuple[float, float]:
        """Mean loss over masks and iterations, whose gradients times `scale` are gathered, and the
        mean IoU after the first prompt."""
        device, config = embeddings.device, self.config
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
            with torch.autocast(
                device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
            ):
                masks, scores = decode(sam, embeddings, prompt)
            masks, scores = masks.float(), scores.float()
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
                    size = sam.image_encoder.img_size
                    clicks.add(*self._correct(logits, targets, size, generator))
        return total / (1 + len(plan)), first_iou

    def _loss(
        self, masks: torch.Tensor, scores: torch.Tensor, targets: torch.Tensor, single: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        iou = true_iou(masks, targets)
        per_output = mask_loss(masks, targets, self.config)
        three = per_output[:, 1:].min(dim=1).values + SPREAD_WEIGHT * per_output[:, 1:].mean(dim=1)
        weights = (1.0, SINGLE_WEIGHT) if single else (SINGLE_WEIGHT, 1.0)
        drawn = weights[0] * per_output[:, 0] + weights[1] * three
        drawn = torch.where(self.background, torch.zeros_like(drawn), drawn)
        wanted = torch.where(self.background[:, None], torch.zeros_like(iou), iou)
        quality = ((scores - wanted) ** 2).mean(dim=1) * 4
        return (drawn + self.config.iou_weight * quality).mean(), iou

    def _correct(
        self,
        logits_B1HW: torch.Tensor,
        targets_BHW: torch.Tensor,
        img_size: int,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One uniform point in each error region; in the mask where there is no error."""
        wanted = targets_BHW > 0.5
        wrong = (logits_B1HW[:, 0] > 0) != wanted
        empty = ~wrong.flatten(1).any(dim=1)
        wrong[empty] = wanted[empty]
        noise = torch.rand(wrong.shape, generator=generator, device=wrong.device)
        place = (noise * (wrong + 1e-6)).flatten(1).argmax(dim=1)
        low = wrong.shape[-1]
        cell = img_size / low
        x, y = place % low, place // low
        points = torch.stack([x, y], dim=1).float() * cell + (cell - 1) / 2
        labels = wanted.flatten(1).gather(1, place[:, None])[:, 0].long()
        return points, labels
