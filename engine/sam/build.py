"""Names to models: `lite` here, `vit_b`, `vit_l` and `vit_h` as segment_anything builds them.

Every model is segment_anything's own `Sam`, so its `SamPredictor` and `SamAutomaticMaskGenerator`
run on each of them.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.sam.drawn_prompts import DrawnPromptEncoder
from engine.sam.lite import EMBED_DIM, IMAGE_SIZE, STRIDE, LiteEncoder
from engine.sam.torchvision_ops import ensure_torchvision

ensure_torchvision()

from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l  # noqa: E402
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer  # noqa: E402

__all__ = ["ARCHITECTURES", "Sam", "build_sam"]

PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


def _spread_frequencies(count: int) -> torch.Tensor:
    """Position frequencies (2, count) from half to four times SAM's scale.

    SAM draws them all at scale 1; at 32 x 32 positions a wider spread lets box corners be told
    apart to about a pixel while the low ones still give distance.
    """
    directions = torch.randn(2, count)
    return directions * torch.logspace(-1, 2, count, base=2.0)


def _build_lite() -> Any:
    grid = IMAGE_SIZE // STRIDE
    prompt_encoder = DrawnPromptEncoder(EMBED_DIM, (grid, grid), (IMAGE_SIZE, IMAGE_SIZE))
    frequencies = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    frequencies.copy_(_spread_frequencies(frequencies.shape[1]))
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=512, num_heads=8),
        transformer_dim=EMBED_DIM,
        iou_head_depth=3,
        iou_head_hidden_dim=128,
    )
    return Sam(LiteEncoder(), prompt_encoder, mask_decoder, PIXEL_MEAN, PIXEL_STD)


ARCHITECTURES = {
    "lite": _build_lite,
    "vit_b": build_sam_vit_b,
    "vit_l": build_sam_vit_l,
    "vit_h": build_sam_vit_h,
}
"""Architecture name -> a function that builds it with random weights."""


def build_sam(architecture: str) -> Any:
    """A `Sam` with random weights, in evaluation mode.

    Raises:
        ValueError: the architecture is unknown.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"unknown architecture {architecture!r}; there are {known}")
    return ARCHITECTURES[architecture]().eval()
