"""Prompts to masks for many prompts over several images at once.

segment_anything's `MaskDecoder.forward` takes one image: it repeats the embedding itself. Here each
prompt names its image, so one call serves a whole batch, in training and in generation.

B = prompts, I = images, N = points, C = channels, h x w = embedding grid (low-resolution masks
are 4h x 4w). Points and boxes are in the frame of the padded model input (`img_size` pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """B prompts of one form: all with the same number of points, all or none with a box.

    Attributes:
        image_index_B: int64, which image each prompt is about.
        points_BN2: float, (x, y); or None.
        labels_BN: int, 1 object, 0 background, -1 padding; or None.
        boxes_B4: float XYXY; or None.
        mask_logits_B1HW: float at 4h x 4w; or None.
    """

    image_index_B: torch.Tensor
    points_BN2: torch.Tensor | None = None
    labels_BN: torch.Tensor | None = None
    boxes_B4: torch.Tensor | None = None
    mask_logits_B1HW: torch.Tensor | None = None


def decode(
    sam: Any, embeddings_ICHW: torch.Tensor, prompts: PromptBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """All four outputs of the mask decoder.

    Returns:
        Mask logits (B, 4, 4h, 4w) and predicted IoU (B, 4); index 0 is the single-mask output,
        1 to 3 are whole, part and subpart.
    """
    encoder, decoder = sam.prompt_encoder, sam.mask_decoder
    grid = (int(embeddings_ICHW.shape[-2]), int(embeddings_ICHW.shape[-1]))
    sparse = _embed_points_and_boxes(encoder, prompts)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
    tokens = torch.cat([tokens.expand(len(sparse), -1, -1), sparse], dim=1)
    if prompts.mask_logits_B1HW is None:
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    else:
        dense = encoder.mask_downscaling(prompts.mask_logits_B1HW)
    source = embeddings_ICHW[prompts.image_index_B] + dense
    positions = encoder.pe_layer(grid).unsqueeze(0).expand(len(source), -1, -1, -1)
    hidden, source = decoder.transformer(source, positions, tokens)
    source = source.transpose(1, 2).reshape(len(source), -1, *grid)
    upscaled = decoder.output_upscaling(source)
    weights = torch.stack(
        [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    masks = torch.einsum("bmc,bchw->bmhw", weights, upscaled)
    return masks, decoder.iou_prediction_head(hidden[:, 0])


def _embed_points_and_boxes(encoder: Any, prompts: PromptBatch) -> torch.Tensor:
    """Sparse tokens (B, tokens, C), as `PromptEncoder.forward` makes them."""
    parts: list[torch.Tensor] = []
    if prompts.points_BN2 is not None:
        parts.append(
            encoder._embed_points(
                prompts.points_BN2, prompts.labels_BN, pad=prompts.boxes_B4 is None
            )
        )
    if prompts.boxes_B4 is not None:
        parts.append(encoder._embed_boxes(prompts.boxes_B4))
    if not parts:
        raise ValueError("a prompt batch needs points or boxes")
    return torch.cat(parts, dim=1)


def preprocess(sam: Any, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalise RGB values in [0, 255] and pad right and below to a square of the longer side
    rounded up to 32; SAM's own `preprocess` for any input size."""
    normed = (images_BCHW - sam.pixel_mean) / sam.pixel_std
    height, width = normed.shape[-2:]
    side = -(-max(height, width) // 32) * 32
    return F.pad(normed, (0, side - width, 0, side - height))
