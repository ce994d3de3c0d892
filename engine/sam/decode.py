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

    The numbers are those of segment_anything's `MaskDecoder` up to rounding; the order of work is
    not: what depends on the image alone is computed once an image, position encodings are added
    after the projections (which are linear) and the upscaling, two transposed convolutions whose
    stride is their size, is matrix products.

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
        image = embeddings_ICHW + encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if len(image) > 1:
            image = image[prompts.image_index_B]
    else:
        image = embeddings_ICHW[prompts.image_index_B]
        image = image + encoder.mask_downscaling(prompts.mask_logits_B1HW)
    positions_LC = encoder.pe_layer(grid).flatten(1).T
    hidden, image = _two_way(decoder.transformer, image.flatten(2).mT, positions_LC, tokens)
    weights = torch.stack(
        [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    masks = _draw(decoder.output_upscaling, image, weights, grid)
    return masks, decoder.iou_prediction_head(hidden[:, 0])


def _two_way(
    transformer: Any, image_BLC: torch.Tensor, positions_LC: torch.Tensor, tokens_BTC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`TwoWayTransformer.forward`: tokens (B, T, C) and image (B, L, C) after their exchange.

    `image_BLC` may be one image for all B prompts (1, L, C); it is told apart by prompt only
    after the first layer.
    """
    hidden = tokens_BTC
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            hidden = layer.self_attn(q=hidden, k=hidden, v=hidden)
        else:
            query = hidden + tokens_BTC
            hidden = hidden + layer.self_attn(q=query, k=query, v=hidden)
        hidden = layer.norm1(hidden)
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        keys, values, queries = _project(
            image_BLC,
            positions_LC,
            ((to_image.k_proj, True), (to_image.v_proj, False), (to_tokens.q_proj, True)),
        )
        query = to_image.q_proj(hidden + tokens_BTC)
        hidden = layer.norm2(hidden + _attend(to_image, query, keys, values))
        hidden = layer.norm3(hidden + layer.mlp(hidden))
        key = to_tokens.k_proj(hidden + tokens_BTC)
        drawn = _attend(to_tokens, queries, key, to_tokens.v_proj(hidden))
        image_BLC = layer.norm4(image_BLC + drawn)
    last = transformer.final_attn_token_to_image
    keys, values = _project(image_BLC, positions_LC, ((last.k_proj, True), (last.v_proj, False)))
    hidden = hidden + _attend(last, last.q_proj(hidden + tokens_BTC), keys, values)
    return transformer.norm_final_attn(hidden), image_BLC


def _project(
    image_BLC: torch.Tensor, positions_LC: torch.Tensor, layers: tuple[tuple[Any, bool], ...]
) -> tuple[torch.Tensor, ...]:
    """`layer(image + positions)`, or `layer(image)` where the flag is False, for several layers in
    one product; (B, L, D) each."""
    weight = torch.cat([layer.weight for layer, _ in layers])
    offsets = [
        F.linear(positions_LC, layer.weight, layer.bias)
        if with_positions
        else layer.bias.expand(len(positions_LC), -1)
        for layer, with_positions in layers
    ]
    projected = F.linear(image_BLC, weight) + torch.cat(offsets, dim=1)
    parts: tuple[torch.Tensor, ...] = torch.split(
        projected, [layer.out_features for layer, _ in layers], dim=2
    )
    return parts


def _attend(
    attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """segment_anything's `Attention` after its input projections; (B, N, C).

    Where many ask few (an image its tokens), scores are laid out key by key: the softmax then runs
    along whole rows, and forward and backward take a third of the time of PyTorch's own kernel.
    """
    batch = max(len(query), len(key))
    query, key, value = (
        x.reshape(*x.shape[:2], attention.num_heads, -1).transpose(1, 2).expand(batch, -1, -1, -1)
        for x in (query, key, value)
    )
    if query.shape[2] > key.shape[2]:
        scores = (key * key.shape[-1] ** -0.5) @ query.mT
        found = (value.mT @ scores.softmax(dim=-2)).mT
    else:
        found = F.scaled_dot_product_attention(query, key, value)
    projected: torch.Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
    return projected


def _draw(
    upscaling: Any, image_BLC: torch.Tensor, weights_BMC: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Upscale the image four times and weigh its channels: logits (B, M, 4h, 4w).

    A cell is kept as a row of its own until the end: (B, L, 4 quarters, 4 quarters of those, C).
    """
    first, norm, activation, second, _ = upscaling
    cells = _transposed(first, image_BLC)
    cells = F.layer_norm(cells, (cells.shape[-1],), norm.weight, norm.bias, norm.eps)
    cells = activation(_transposed(second, activation(cells)))
    batch, outputs = int(weights_BMC.shape[0]), int(weights_BMC.shape[1])
    logits = cells.reshape(batch, -1, cells.shape[-1]) @ weights_BMC.mT
    height, width = grid
    logits = logits.reshape(batch, height, width, 2, 2, 2, 2, outputs)
    logits = logits.permute(0, 7, 1, 3, 5, 2, 4, 6)  # rows: cell, half, quarter; then columns
    return torch.reshape(logits, (batch, outputs, 4 * height, 4 * width))


def _transposed(convolution: Any, cells: torch.Tensor) -> torch.Tensor:
    """A 2 x 2 transposed convolution of stride 2 on rows (..., C): (..., 4, D), the four quarters
    of each cell row by row."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 D, C)
    quarters = F.linear(cells, weight, convolution.bias.repeat(4))
    return quarters.reshape(*cells.shape[:-1], 4, -1)


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
