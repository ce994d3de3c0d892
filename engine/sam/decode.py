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

from engine.sam.drawn_prompts import drawn_prompts


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


@dataclass(frozen=True, slots=True)
class Decoded:
    """Answers whose masks are not drawn yet: drawing takes a third of the time, and most answers
    to a grid of points are thrown away for their predicted IoU.

    Attributes:
        scores_B4: predicted IoU; index 0 is the single-mask output, 1 to 3 are whole, part and
            subpart.
        hidden_BTC: tokens after the transformer. image_BLC: the image after it.
        grid: (h, w). decoder: the `MaskDecoder`.
    """

    scores_B4: torch.Tensor
    hidden_BTC: torch.Tensor
    image_BLC: torch.Tensor
    grid: tuple[int, int]
    decoder: Any

    def draw(self) -> torch.Tensor:
        """All mask logits, (B, 4, 4h, 4w)."""
        return _draw(self.decoder.output_upscaling, self.image_BLC, self._weights(), self.grid)

    def draw_some(self, rows_N: torch.Tensor, outputs_N: torch.Tensor) -> torch.Tensor:
        """The logits of some outputs of some prompts, (N, 4h, 4w); `rows_N` ascending.

        On a CPU prompt by prompt: one prompt's upscaled image fits its cache, two do not.
        """
        low = (4 * self.grid[0], 4 * self.grid[1])
        if not len(rows_N):
            return self.image_BLC.new_zeros((0, *low))
        upscaling, weights = self.decoder.output_upscaling, self._weights()
        prompts, place, counts = torch.unique_consecutive(
            rows_N, return_inverse=True, return_counts=True
        )
        if self.image_BLC.device.type != "cpu":
            drawn = _draw(upscaling, self.image_BLC[prompts], weights[prompts], self.grid)
            return drawn[place, outputs_N]
        wanted = torch.split(outputs_N, counts.tolist())
        return torch.cat(
            [
                _draw(upscaling, self.image_BLC[p : p + 1], weights[p, outputs][None], self.grid)[0]
                for p, outputs in zip(prompts.tolist(), wanted, strict=True)
            ]
        )

    def _weights(self) -> torch.Tensor:
        """Each output's weights of the upscaled channels, (B, 4, C)."""
        mlps = self.decoder.output_hypernetworks_mlps
        return torch.stack([mlp(self.hidden_BTC[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)


def decode(
    sam: Any, embeddings_ICHW: torch.Tensor, prompts: PromptBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """All four outputs of the mask decoder: logits (B, 4, 4h, 4w) and predicted IoU (B, 4)."""
    decoded = decode_undrawn(sam, embeddings_ICHW, prompts)
    return decoded.draw(), decoded.scores_B4


def positions(sam: Any, grid: tuple[int, int]) -> torch.Tensor:
    """The encoding of every place of an embedding of (h, w), (h x w, C). It never changes."""
    with torch.autocast(sam.device.type, enabled=False):
        encoded: torch.Tensor = sam.prompt_encoder.pe_layer(grid).flatten(1).T
    return encoded


def decode_undrawn(
    sam: Any,
    embeddings_ICHW: torch.Tensor,
    prompts: PromptBatch,
    positions_LC: torch.Tensor | None = None,
    decoder: Any = None,
) -> Decoded:
    """What the mask decoder says of B prompts, up to the drawing of masks.

    `positions_LC` is what `positions` gives, where it is at hand. `decoder` stands for the model's
    own: a copy of it in another dtype. Prompts are embedded in the model's dtype all the same,
    since bfloat16 cannot tell neighbouring pixels apart.

    The numbers are those of segment_anything's `MaskDecoder` up to rounding; the order of work is
    not: what depends on the image alone is computed once an image, position encodings are added
    after the projections (which are linear) and the upscaling, two transposed convolutions whose
    stride is their size, is matrix products.
    """
    encoder, decoder = sam.prompt_encoder, decoder or sam.mask_decoder
    grid = (int(embeddings_ICHW.shape[-2]), int(embeddings_ICHW.shape[-1]))
    sparse = _embed_points_and_boxes(encoder, prompts)
    places = positions(sam, grid) if positions_LC is None else positions_LC
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
    tokens = torch.cat([tokens.expand(len(sparse), -1, -1), sparse], dim=1)
    image = _placed_prompts(encoder, embeddings_ICHW, prompts)
    kind = decoder.iou_token.weight.dtype
    hidden, image = _two_way(
        decoder.transformer, image.flatten(2).mT.to(kind), places.to(kind), tokens.to(kind)
    )
    return Decoded(decoder.iou_prediction_head(hidden[:, 0]), hidden, image, grid, decoder)


def _placed_prompts(
    encoder: Any, embeddings_ICHW: torch.Tensor, prompts: PromptBatch
) -> torch.Tensor:
    """Embeddings with what each prompt says place by place, (B, C, h, w); (1, C, h, w) where that
    is the same for all prompts."""
    if prompts.mask_logits_B1HW is None:
        image: torch.Tensor = embeddings_ICHW + encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if len(image) > 1:
            image = image.index_select(0, prompts.image_index_B)
        if prompts.boxes_B4 is None:
            return image
    else:
        image = embeddings_ICHW.index_select(0, prompts.image_index_B)
        image = image + encoder.mask_downscaling(prompts.mask_logits_B1HW)
    grid = (int(image.shape[-2]), int(image.shape[-1]))
    points, labels = prompts.points_BN2, prompts.labels_BN
    return image + drawn_prompts(encoder, points, labels, prompts.boxes_B4, grid)


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
        placed = image_BLC + positions_LC
        asked = _ask_image(layer.cross_attn_token_to_image, hidden + tokens_BTC, placed, image_BLC)
        hidden = layer.norm2(hidden + asked)
        hidden = layer.norm3(hidden + layer.mlp(hidden))
        told = _tell_image(
            layer.cross_attn_image_to_token, hidden + tokens_BTC, hidden, placed, image_BLC
        )
        image_BLC = layer.norm4(told)
    last = transformer.final_attn_token_to_image
    asked = _ask_image(last, hidden + tokens_BTC, image_BLC + positions_LC, image_BLC)
    return transformer.norm_final_attn(hidden + asked), image_BLC


def _ask_image(
    attention: Any, query_BTC: torch.Tensor, placed_BLC: torch.Tensor, image_BLC: torch.Tensor
) -> torch.Tensor:
    """Few tokens attend to many places: `attention(q=query, k=placed, v=image)`, (B, T, C).

    Projecting the tokens back, once a head, and comparing them with the image as it is costs about
    as many products as projecting the image, and no pass over it: q (W x) = (W' q) x. The bias of
    the keys is the same for every place and drops out.
    """
    query_BHTD = _heads(attention.q_proj(query_BTC), attention)
    scores = _times(_backwards(query_BHTD, attention.k_proj), placed_BLC.mT)
    seen_BNC = _times(scores.softmax(dim=-1), image_BLC)
    batch, heads, tokens, _ = query_BHTD.shape
    seen = seen_BNC.reshape(batch, heads, tokens, -1)
    weight_HCD = attention.v_proj.weight.unflatten(0, (heads, -1)).mT
    values = (seen @ weight_HCD).transpose(1, 2).flatten(2) + attention.v_proj.bias
    projected: torch.Tensor = attention.out_proj(values)
    return projected


def _tell_image(
    attention: Any,
    key_BTC: torch.Tensor,
    value_BTC: torch.Tensor,
    placed_BLC: torch.Tensor,
    image_BLC: torch.Tensor,
) -> torch.Tensor:
    """Many places attend to few tokens: `image + attention(q=placed, k=key, v=value)`, (B, L, C),
    by the same turn as in `_ask_image`. Scores are laid out token by token: the softmax then runs
    along whole rows."""
    key_BHTD = _heads(attention.k_proj(key_BTC), attention)
    batch, heads, tokens, width = key_BHTD.shape
    constant = key_BHTD @ attention.q_proj.bias.reshape(heads, width, 1)  # (B, H, T, 1)
    scores = _times(_backwards(key_BHTD, attention.q_proj), placed_BLC.mT)
    scores = scores.reshape(batch, heads, tokens, -1) + constant * width**-0.5
    weights_BNL = scores.softmax(dim=2).flatten(1, 2)
    value_BHTD = _heads(attention.v_proj(value_BTC), attention)
    weight_HDC = attention.out_proj.weight.T.unflatten(0, (heads, -1))
    value_BNC = (value_BHTD @ weight_HDC).flatten(1, 2)
    start = (image_BLC + attention.out_proj.bias).expand(batch, -1, -1)
    return torch.baddbmm(start, weights_BNL.mT, value_BNC)


def _heads(x_BTE: torch.Tensor, attention: Any) -> torch.Tensor:
    """(B, T, H x D) to (B, H, T, D)."""
    batch, tokens, _ = x_BTE.shape
    return x_BTE.reshape(batch, tokens, attention.num_heads, -1).transpose(1, 2)


def _backwards(x_BHTD: torch.Tensor, layer: Any) -> torch.Tensor:
    """Each head's vectors taken back through a projection and scaled for attention,
    (B, H x T, C)."""
    heads, width = x_BHTD.shape[1], x_BHTD.shape[3]
    weight_HDC = layer.weight.reshape(heads, width, -1) * width**-0.5
    return torch.matmul(x_BHTD, weight_HDC).flatten(1, 2)


def _times(left_BNK: torch.Tensor, right_BKM: torch.Tensor) -> torch.Tensor:
    """Batched product where `right` may be one matrix for all: then it is a single product."""
    right = right_BKM[0] if len(right_BKM) == 1 else right_BKM
    product: torch.Tensor = torch.matmul(left_BNK, right)
    return product


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
    # positions stay exact under autocast: bfloat16 cannot tell neighbouring pixels apart
    with torch.autocast(encoder.no_mask_embed.weight.device.type, enabled=False):
        return _embed_exactly(encoder, prompts)


def _embed_exactly(encoder: Any, prompts: PromptBatch) -> torch.Tensor:
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
