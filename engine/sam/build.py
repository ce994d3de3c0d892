"""Models by architecture: `lite` and MobileSAM's `vit_t` are built here, `vit_b`, `vit_l` and
`vit_h` by segment_anything.

Every model is segment_anything's own `Sam`, so that its `SamPredictor` and
`SamAutomaticMaskGenerator` accept it.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.sam import tiny_vit
from engine.sam.drawn_prompts import DrawnPromptEncoder
from engine.sam.lite import EMBED_DIM, IMAGE_SIZE, STRIDE, LiteEncoder
from engine.sam.modeling import (
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
)

__all__ = ["ARCHITECTURES", "Sam", "build_sam"]

PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


def _spread_frequencies(count: int) -> torch.Tensor:
    """Return position frequencies, float32 (2, count), from half to four times SAM's scale.

    SAM draws all frequencies at scale 1. `lite` has a small embedding grid: high frequencies locate
    box corners to about a pixel, low frequencies keep positions unambiguous.
    """
    directions = torch.randn(2, count)
    return directions * torch.logspace(-1, 2, count, base=2.0)


def _build_lite() -> Any:
    grid = IMAGE_SIZE // STRIDE
    prompt_encoder = DrawnPromptEncoder(EMBED_DIM, (grid, grid), (IMAGE_SIZE, IMAGE_SIZE))
    frequencies = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    frequencies.copy_(_spread_frequencies(frequencies.shape[1]))
    mask_decoder = _mask_decoder(EMBED_DIM, mlp_dim=512, iou_hidden=128)
    return Sam(LiteEncoder(), prompt_encoder, mask_decoder, PIXEL_MEAN, PIXEL_STD)


def _build_vit_t() -> Any:
    side, channels = tiny_vit.IMAGE_SIZE, tiny_vit.EMBED_DIM
    grid = side // tiny_vit.STRIDE
    prompt_encoder = PromptEncoder(channels, (grid, grid), (side, side), mask_in_chans=16)
    mask_decoder = _mask_decoder(channels, mlp_dim=2048, iou_hidden=256)
    return Sam(tiny_vit.TinyVit(side), prompt_encoder, mask_decoder, PIXEL_MEAN, PIXEL_STD)


def _mask_decoder(channels: int, *, mlp_dim: int, iou_hidden: int) -> Any:
    return MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(2, channels, num_heads=8, mlp_dim=mlp_dim),
        transformer_dim=channels,
        iou_head_depth=3,
        iou_head_hidden_dim=iou_hidden,
    )


ARCHITECTURES = {
    "lite": _build_lite,
    "vit_t": _build_vit_t,
    "vit_b": build_sam_vit_b,
    "vit_l": build_sam_vit_l,
    "vit_h": build_sam_vit_h,
}
"""Architecture name -> function that builds the model with random weights."""


def build_sam(architecture: str) -> Any:
    """Build a `Sam` with random weights, in evaluation mode.

    Raises:
        ValueError: the architecture is not in ARCHITECTURES.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"unknown architecture {architecture!r}; expected one of {known}")
    return ARCHITECTURES[architecture]().eval()
