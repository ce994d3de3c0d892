"""Configuration of a training run: every number with its unit and source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run of a promptable model. Defaults: a retrain inside the loop."""

    steps: int = 200
    """Optimiser steps."""

    images_per_step: int = 4
    """Images per batch."""

    masks_per_image: int = 8
    """Masks drawn at random from each image of a step; SAM uses up to 64 (paper, appendix A)."""

    image_size: int = 384
    """Longer side of the training images in pixels: that of the model's input (`lite`: 384), else
    the model is trained on objects of sizes that it is not asked about. A retrain sets it."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: of encoder (autocast) and mask decoder (a copy); weights stay float32."""

    refinements: int = 2
    """Largest number of clicks in error regions after the first prompt (SAM: 8, appendix A)."""

    vary_refinements: bool = True
    """Each step draws 0 to `refinements` clicks; False takes all (SAM)."""

    repeats: int = 0
    """Prompt iterations without a new click, with the previous mask's logits alone: one is last,
    the others at random positions (SAM: 2, appendix A). Steps without refinements have none."""

    learning_rate: float = 2e-4
    """Peak rate of the prompt encoder and mask decoder; SAM: 8e-4 at batch 256 (appendix A)."""

    encoder_rate: float = 0.2
    """Learning rate of the encoder's trunk as a share of `learning_rate`."""

    neck_rate: float = 1.0
    """Learning rate of the encoder's layers after the trunk as a share of `learning_rate`."""

    frozen_stages: int = 1
    """Stages of the trunk that are frozen in addition to the stem; -1 freezes nothing."""

    frozen_encoder: bool = False
    """Train the prompt encoder and mask decoder alone, from cached embeddings: for fast
    retrains."""

    cached_views: int = 200
    """Crops with cached embeddings, if the encoder is frozen; each is drawn many times with other
    masks and prompts."""

    weight_decay: float = 0.05
    """Of AdamW."""

    warmup_steps: int = 20
    """Steps of linear warm-up (SAM: 250)."""

    schedule: Literal["cosine", "steps"] = "cosine"
    """`cosine`: to zero after the warm-up; `steps`: a tenth after each of `drops` (SAM)."""

    drops: tuple[float, ...] = (2 / 3, 0.963)
    """Shares of `steps` after which the rate is multiplied by 0.1 (SAM: 60,000 and 86,666 of 90,000
    steps)."""

    layer_decay: float = 1.0
    """Learning rate of each stage or block of the trunk as a share of the next one's (SAM: 0.8 for
    ViT-H and ViT-L, 0.6 for ViT-B)."""

    drop_path: float = 0.0
    """Probability that an image skips the trunk's last residual block; it decreases linearly to 0
    at the first block (SAM: 0.4)."""

    accumulate: int = 1
    """Batches of `images_per_step` whose gradients are summed into one step."""

    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    ema_decay: float = 0.99
    """Decay of the exponential moving average of the weights, which is the result."""

    trained_share: float | None = 1.0
    """Share of the trained weights in the result; the rest are the weights at the start. Their mean
    keeps what short trainings on few images forget (WiSE-FT, Wortsman et al. 2022). None: the one
    of `early_stopping.SHARES` with the lowest loss on the checked examples; half without any."""

    mask_loss: Literal["focal", "balanced"] = "focal"
    """`focal`: 20 x focal + dice (SAM, appendix A). `balanced`: 2 x balanced cross entropy + dice
    (`engine.training.losses`), which does not collapse to empty masks when training starts from an
    untrained decoder."""

    iou_weight: float = 1.0
    """Weight of the IoU head's squared error (SAM: 1)."""

    box_share: float = 0.35
    """Share of first prompts that are boxes; SAM: half (appendix A)."""

    background_share: float = 0.15
    """Share of first prompts that are clicks on no object, with target IoU 0, on images whose
    annotation is complete: they make the predicted IoU usable as a filter of automatic masks."""

    center_share: float = 0.5
    """Share of first clicks at the point farthest from the mask's edge; the others are uniform."""

    box_noise: float = 0.1
    """Standard deviation of a box's corners as a share of its side, at most 20 px (SAM, appendix
    A)."""

    max_area: float = 0.9
    """Masks above this share of the image are dropped (SAM, appendix A)."""

    min_pixels: int = 12
    """Masks of fewer pixels at training size are dropped."""

    jitter: tuple[float, float] = (0.7, 1.6)
    """Range of the random scale; SAM on annotated masks: 0.1 to 2 (appendix A)."""

    check_steps: int = 0
    """Steps between checks of the averaged weights on examples that are not trained on; 0: none.
    The result is the best checked average (`engine.training.early_stopping`)."""

    patience: int = 3
    """Checks without a lower loss after which the training ends."""

    replay: float = 0.5
    """Share of a retrain's images drawn from generated scenes, against forgetting."""

    seed: int = 0
    """Of all random numbers."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "images_per_step",
            "masks_per_image",
            "accumulate",
            "cached_views",
            "patience",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {self.image_size}")
        for name in (
            "box_share",
            "background_share",
            "center_share",
            "replay",
            "max_area",
            "trained_share",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must lie in [0, 1), got {self.drop_path}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a card or a run's row."""
        return asdict(self)
