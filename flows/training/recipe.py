"""The configuration of a retrain: the settings, and what they leave open by the masks."""

from __future__ import annotations

from dataclasses import dataclass

from engine.sam.segmenter import half_is_faster
from engine.training.config import TrainConfig
from flows.workspace.workspace import Workspace

FEW_MASKS = 60
"""With fewer masks, the decoder alone is trained."""

VIEWS_PER_IMAGE = 20
LEAST_VIEWS, MOST_VIEWS = 600, 2400
"""Training images drawn in all: VIEWS_PER_IMAGE of each image, within these limits."""

WARMUP_STEPS, WARMUP_SHARE = 20, 6
"""Steps of the warm-up: at most WARMUP_STEPS, and a part in WARMUP_SHARE of a short training."""

CHECKS = 8
"""Checks of early stopping in a training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Numbers of images and masks to train on, and of images for early stopping."""

    images: int
    masks: int
    checked: int


def train_config(workspace: Workspace, data: TrainingData) -> TrainConfig:
    """Return the configuration of a retrain on this data (docs/training.md, "In a workspace")."""
    chosen = workspace.settings.train
    exact = chosen.precision == "float32" or (
        chosen.precision == "auto" and not half_is_faster(workspace.device())
    )
    frozen = chosen.frozen_encoder
    steps = chosen.steps
    if steps is None:
        views = min(max(VIEWS_PER_IMAGE * data.images, LEAST_VIEWS), MOST_VIEWS)
        steps = max(1, views // chosen.images_per_step)
    return TrainConfig(
        precision="float32" if exact else "bfloat16",
        frozen_encoder=data.masks < FEW_MASKS if frozen is None else frozen,
        steps=steps,
        images_per_step=chosen.images_per_step,
        masks_per_image=chosen.masks_per_image,
        refinements=chosen.refinements,
        learning_rate=chosen.learning_rate,
        encoder_rate=0.3,
        frozen_stages=1,
        replay=chosen.replay,
        mask_loss="balanced",
        ema_decay=0.98,
        warmup_steps=min(WARMUP_STEPS, steps // WARMUP_SHARE),
        trained_share=None,
        check_steps=max(1, steps // CHECKS) if data.checked else 0,
    )
